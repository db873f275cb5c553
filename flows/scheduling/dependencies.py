"""Which jobs of a batch may start, which wait for others, and which can never start. No I/O.

A batch is labels in Prefect and no process: whoever starts jobs asks here, and whoever finds one that
can never start ends it with the message.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from trainer.contract.job_directory import JobState

NAMED = 3  # jobs that a sentence names one by one


class WantedEnd(StrEnum):
    """How a job has to end for those that come after it."""

    OK = "ok"
    """It is completed."""
    ANY = "any"
    """It is at its end, whichever."""
    FAILED = "failed"
    """It failed, was stopped, or could never start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A job of a batch as it stands."""

    id: str
    name: str
    """In its batch, where no other has it."""
    state: JobState
    """Of one that crashed, and will be executed again: running."""
    why: str = ""
    """Why it is in that state, if that is known."""
    after: Mapping[str, WantedEnd] = field(default_factory=dict)
    """The jobs that it comes after, by name, and how these have to end."""
    stops: bool = False
    """Whether its batch starts nothing more once a job of it has failed."""

    @property
    def has_ended(self) -> bool:
        """Whether nothing more becomes of it; a paused one may go on."""
        return self.state in {JobState.COMPLETED, JobState.FAILED, JobState.STOPPED}


@dataclass(frozen=True, slots=True, kw_only=True)
class Clearance:
    """Whether a waiting job may start: it may where both texts are empty."""

    held: str = ""
    """Why it may not start yet."""
    never: str = ""
    """Why it can never start; it is to be ended with these words."""


MAY_START = Clearance()


def after_of(label: Any) -> dict[str, WantedEnd]:
    """Return what a label says that a job comes after; see `as_label`.

    What anybody may have written there and nobody can read holds the job for good, as a job of that name
    that does not exist.
    """
    found: dict[str, WantedEnd] = {}
    for entry in str(label or "").split(","):
        name, _, ending = entry.strip().rpartition(":")
        if entry.strip():
            known = name and ending in set(WantedEnd)
            found[name if known else entry.strip()] = WantedEnd(ending) if known else WantedEnd.OK
    return found


def as_label(after: Mapping[str, WantedEnd]) -> str:
    """Return what a job comes after as a text: `base:ok,other:any`."""
    return ",".join(f"{name}:{ending}" for name, ending in after.items())


def verdicts(members: Iterable[Member]) -> dict[str, Clearance]:
    """Return by id which waiting jobs of one batch may start, and why the others may not.

    A job that can never start counts at once as ended for those that come after it.

    Args:
        members: all jobs of the batch, in any order, those that have ended included.
    """
    return _Batch(list(members)).verdicts()


class _Batch:
    """The jobs of one batch, judged together."""

    def __init__(self, members: Sequence[Member]) -> None:
        self._members = members
        self._by_name = {member.name: member for member in members}
        self._failed = next((one for one in members if one.state is JobState.FAILED), None)
        self._found: dict[str, Clearance] = {}

    def verdicts(self) -> dict[str, Clearance]:
        waiting = [one for one in self._members if one.state is JobState.CREATED]
        # Without recursion: a chain may be longer than the stack is deep.
        followers: dict[str, list[Member]] = {}
        for one in waiting:
            for name in one.after:
                followers.setdefault(name, []).append(one)
        # Only a job that can never start changes what is so for others, and each does so once.
        open_ones = list(waiting)
        while open_ones:
            member = open_ones.pop()
            before = self._found.get(member.id)
            verdict = before if before and before.never else self._judged(member)
            self._found[member.id] = verdict
            if verdict.never and not (before and before.never):
                open_ones += followers.get(member.name, ())
        return self._found

    def _judged(self, member: Member) -> Clearance:
        if never := self._stopped(member) or self._hopeless(member):
            return Clearance(never=never)
        lacking = [name for name in member.after if not self._has_ended(name)]
        return Clearance(held=self._waits_for(lacking)) if lacking else MAY_START

    def _stopped(self, member: Member) -> str:
        """Return why the batch starts nothing more; "" if it does, or if the job is for that case."""
        clears_up = any(ending is not WantedEnd.OK for ending in member.after.values())
        if self._failed is None or not member.stops or clears_up:
            return ""
        return f"job {self._failed.name} failed, and its batch starts nothing more then{_because(self._failed)}"

    def _hopeless(self, member: Member) -> str:
        """Return which job ended otherwise than this one needs it."""
        for name, ending in member.after.items():
            if not self._has_ended(name):
                continue
            before = self._by_name[name]
            completed = before.state is JobState.COMPLETED
            if ending is WantedEnd.OK and not completed:
                return f"comes after job {name}, which {self._fate(before)}"
            if ending is WantedEnd.FAILED and completed:
                return f"comes after the failure of job {name}, which is completed"
        return ""

    def _has_ended(self, name: str) -> bool:
        member = self._by_name.get(name)
        return member is not None and (member.has_ended or self._never(member) != "")

    def _never(self, member: Member) -> str:
        verdict = self._found.get(member.id)
        return verdict.never if verdict else ""

    def _fate(self, member: Member) -> str:
        if member.has_ended:
            ended = "failed" if member.state is JobState.FAILED else "was stopped"
            return f"{ended}{_because(member)}"
        return f"can never start: it {self._never(member)}"

    def _waits_for(self, names: Sequence[str]) -> str:
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        return f"comes after {', '.join(map(self._standing, names[:NAMED]))}{more}"

    def _standing(self, name: str) -> str:
        member = self._by_name.get(name)
        if member is None:
            return f"job {name}, which Prefect does not have (submit the batch again, or cancel this job)"
        words = {JobState.CREATED: "waits", JobState.PAUSED: "is paused"}
        return f"job {name}, which {words.get(member.state, 'runs')}"


def _because(member: Member) -> str:
    return f" ({member.why.rstrip('.')})" if member.why else ""
