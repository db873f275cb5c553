"""What is noted of a job's events, and how far Prefect has them.

It lies in the run's folder. A mark in a folder of its own says that some are not with Prefect yet:
so a pass over what is left costs nothing for the thousands of runs that have nothing left.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from blocks.home import home, private_folder, runs
from flows.full_disk import save_anyway, unsaved
from flows.job_events.kinds import BEGINS, RESTS
from flows.locks import briefly_locked
from trainer.contract.files import read_json

MOST_EVENTS = 1000  # that are kept of what is with Prefect


@dataclass(slots=True)
class Noted:
    """What the file holds."""

    facts: dict[str, Any] = field(default_factory=dict)
    """See `flows.job_events.kinds.facts_of`; of a run."""
    is_first: bool = False
    """Whether no execution came before the present one, so that nobody else can have sent its events."""
    rests: int = 0
    """How often the job had come to rest before its present execution."""
    trained_before: bool = False
    """Whether it trained before its present execution."""
    events: list[dict[str, Any]] = field(default_factory=list)
    """As Prefect's API takes them, oldest first."""
    sent: dict[str, list[float]] = field(default_factory=dict)
    """Of each that Prefect took and does not find yet, by id: how often, and when it last did, in seconds
    since the epoch."""
    stored: int = 0
    """How many of the first are stored there, or were refused."""
    began: dict[str, Any] = field(default_factory=dict)
    """When the job last got its GPUs, a `Moment`; empty: it has none."""
    gpus: int = 0
    """How many it got then."""
    seconds: float = 0.0
    """For how long it had them before."""
    gpu_seconds: float = 0.0

    @property
    def waiting(self) -> list[dict[str, Any]]:
        """The events that are not stored at Prefect."""
        return self.events[self.stored :]

    def doubted(self) -> list[dict[str, Any]]:
        """Return those of which Prefect may have some, and is asked before they are sent."""
        # What comes before any execution, somebody else tells of too.
        own = tuple(f".{what}" for what in BEGINS | RESTS)
        return [
            event
            for event in self.waiting
            if event["id"] in self.sent or not self.is_first or not event["event"].endswith(own)
        ]

    def add(self, event: dict[str, Any]) -> bool:
        """Note an event that is not noted yet; return whether it was not."""
        if any(event["id"] == noted["id"] for noted in self.events):
            return False
        self.events.append(event)
        return True

    def settle(self, ids: Collection[str]) -> None:
        """Note that Prefect has stored, or refused, these events."""
        done = [event for event in self.waiting if event["id"] in ids]
        rest = [event for event in self.waiting if event["id"] not in ids]
        self.events = [*self.events[: self.stored], *done, *rest]
        self.stored += len(done)
        self.sent = {id: at for id, at in self.sent.items() if id not in ids}
        if (surplus := self.stored - MOST_EVENTS) > 0:
            self.events, self.stored = self.events[surplus:], MOST_EVENTS


class EventSpool:
    """The events of one run, or those of the runs that wait."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.lock = file.with_name(f".{file.name}.lock")
        """Of the process that sends."""
        self._changing = file.with_name(f".{file.name}.change")
        self._mark = _marks() / file.parent.name

    @classmethod
    def of(cls, run_id: str) -> EventSpool:
        """Return a run's."""
        return cls(private_folder(runs() / run_id) / "job-events.json")

    @classmethod
    def of_waiting(cls) -> EventSpool:
        """Return that of the runs that no flow works on yet."""
        return cls(private_folder(home() / "waiting-runs") / "job-events.json")

    def read(self) -> Noted:
        """Return what is noted."""
        record = unsaved(self.file) or read_json(self.file) or {}
        # A newer version may have written fields that this one does not know.
        return Noted(**{k: v for k, v in record.items() if k in Noted.__dataclass_fields__})

    def change(self, change: Callable[[Noted], object]) -> Noted:
        """Change what is noted, as the only one that does at this instant."""
        with briefly_locked(self._changing):
            noted = self.read()
            change(noted)
            if noted.waiting:
                with suppress(OSError):  # a full disk: the next change tries again
                    self._mark.touch()
            save_anyway(self.file, asdict(noted))
            if not noted.waiting:
                self._mark.unlink(missing_ok=True)
        return noted

    def stamp(self) -> int:
        """Return what changes when something is noted."""
        if kept := unsaved(self.file):  # on a full disk
            return -len(kept["events"])
        try:
            return self.file.stat().st_mtime_ns
        except OSError:
            return 0


def unfinished() -> list[EventSpool]:
    """Return what holds events that Prefect has not stored yet."""
    found = []
    for mark in sorted(_marks().iterdir()):
        if mark.name == "waiting-runs":
            found.append(EventSpool.of_waiting())
        elif (runs() / mark.name).is_dir():
            found.append(EventSpool.of(mark.name))
        else:  # the run's folder was removed
            mark.unlink(missing_ok=True)
    return found


def older_than(noted: Noted, days: float) -> set[str]:
    """Return the ids of the events that Prefect has not stored and that happened so long ago."""
    before = datetime.now(UTC) - timedelta(days=days)
    return {e["id"] for e in noted.waiting if datetime.fromisoformat(e["occurred"]) < before}


def _marks() -> Path:
    return private_folder(home() / "unsent-events")
