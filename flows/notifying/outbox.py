"""What waits to be sent to one receiver, and what was sent: files that any process goes on with.

notifications/ID/receiver.json      who, and when they are left in peace
notifications/ID/waiting/EVENT.json an event; removed once it is sent
notifications/ID/sent.json          which were, and when the next may be
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from blocks.home import home, private_folder
from flows.notifying.destinations import Destination, destination_of
from flows.notifying.waiting import EVENTS, FOLDER, folders_with_messages
from trainer.contract.files import read_json, replace_json

REMEMBERED_DAYS = 30.0  # for which what was sent is not sent again
DAY = 86400.0


@dataclass(slots=True)
class SentRecord:
    """How sending went; times are seconds since the epoch."""

    sent: dict[str, float] = field(default_factory=dict)
    """The ids of the events that were sent, and when."""
    last: float = 0.0
    """When the last message went out."""
    failures: int = 0
    """How often sending failed since."""
    retry_at: float = 0.0
    """Until when the receiver is left alone after that."""

    def forget_old(self, now: float) -> None:
        """Forget what was sent so long ago that nobody notes it again."""
        oldest = now - REMEMBERED_DAYS * DAY
        self.sent = {id: at for id, at in self.sent.items() if at > oldest}


class Outbox:
    """The files of one receiver."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lock = folder / ".lock"
        """Of the process that sends."""
        self._receiver = folder / "receiver.json"
        self._sent = folder / "sent.json"
        self._waiting = folder / "waiting"

    @classmethod
    def of(cls, destination: Destination) -> Outbox:
        """Return a receiver's, which is made where there is none."""
        outbox = cls(private_folder(private_folder(home() / FOLDER) / destination.id))
        private_folder(outbox._waiting)
        if not outbox._receiver.exists():
            replace_json(outbox._receiver, destination.to_dict())
        return outbox

    def destination(self) -> Destination | None:
        """Return who it is for; None where that cannot be read."""
        record = read_json(self._receiver)
        return destination_of(record) if record else None

    def add(self, event: dict[str, Any]) -> None:
        """Let an event wait, unless it waits or was sent already.

        Args:
            event: with an `id`, of which there is one for all that is noted of the same thing, and `at`.
        """
        file = self._file(event["id"])
        # What was sent is noted there before its file is removed: one of the two is always seen.
        if not file.exists() and event["id"] not in self.record().sent:
            replace_json(file, event)

    def waiting(self) -> list[dict[str, Any]]:
        """Return the events that wait, oldest first."""
        found = [event for file in self._files() if (event := read_json(file))]
        return sorted(found, key=lambda event: (float(event.get("at") or 0.0), event["id"]))

    def has_waiting(self) -> bool:
        """Whether any event waits."""
        return next(self._files(), None) is not None

    def record(self) -> SentRecord:
        """Return how sending went."""
        record = read_json(self._sent) or {}
        return SentRecord(
            **{k: v for k, v in record.items() if k in SentRecord.__dataclass_fields__}
        )

    def save(self, record: SentRecord) -> None:
        """Note how sending went; only whoever holds the lock does."""
        replace_json(self._sent, asdict(record))

    def settle(self, record: SentRecord, ids: Iterable[str]) -> None:
        """Note that events were sent, or are given up, and let them wait no longer."""
        ids, now = list(ids), time.time()
        record.sent.update(dict.fromkeys(ids, now))
        record.forget_old(now)
        self.save(record)
        for id in ids:
            self._file(id).unlink(missing_ok=True)

    def _file(self, id: str) -> Path:
        return self._waiting / f"{id}.json"

    def _files(self) -> Iterator[Path]:
        return self.folder.glob(EVENTS)


def outboxes() -> list[Outbox]:
    """Return those in which something waits."""
    return [Outbox(folder) for folder in folders_with_messages()]
