"""events.jsonl: one object per event of a job, append only. Standard library only.

    {"at": "2026-01-31T12:00:00.000+00:00", "step": 32, "kind": "loss_spike", "message": …, "facts": {…}}

The log says the same in words, for people; programs read this.
"""

from __future__ import annotations

import json
import math
import re
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from threading import Lock
from typing import Any

from trainer.contract.files import NOT_JSON, append_line
from trainer.contract.job_directory import JobDirectory
from trainer.contract.metrics import MAX_LINE, is_step, is_time

HELD = 1000  # events kept while their disk is full
# https://www.postgresql.org/docs/current/datatype-json.html
NUL = b"\\u0000"  # PostgreSQL refuses it in a text
_KIND = re.compile(r"[a-z][a-z_]{0,39}")
_held: dict[Path, deque[str]] = {}
_lock = Lock()  # checkpoints are saved in a thread


class Kind(StrEnum):
    """What happens to a job."""

    LOSS_SPIKE = "loss_spike"
    LOSS_PLATEAU = "loss_plateau"
    ROLL_BACK = "roll_back"
    """The loss was NaN or infinite: continue from the last checkpoint at a lower learning rate."""
    OUT_OF_MEMORY = "out_of_memory"
    """Memory ran out: the trainer starts again with a smaller batch."""
    RESTART = "restart"
    """The trainer starts again after a signal or a stall."""
    FALLBACK = "fallback"
    """Training goes on in a way that was not asked for: an evaluation with smaller batches, say."""
    DISK_FULL = "disk_full"
    """Checkpoints were removed to save another."""
    ROWS_DROPPED = "rows_dropped"
    FIRST_ROW = "first_row"
    """What the first row of the data looks like to the model."""
    CHECKPOINT_PASSED_OVER = "checkpoint_passed_over"
    NOTICE = "notice"
    """The provider announced that it takes the machine back; a checkpoint is saved at once."""
    GPU_MEMORY = "gpu_memory"
    """The job uses more of a GPU that it shares than it has: it is warned, paused or ended."""
    GPU_SICK = "gpu_sick"
    """A GPU broke: it is taken out of use, and the job goes on on another."""
    RESUMED = "resumed"
    SAVED = "saved"


SAME_WHEN_REPEATED = frozenset(
    {Kind.LOSS_SPIKE, Kind.LOSS_PLATEAU, Kind.ROWS_DROPPED, Kind.FIRST_ROW}
)
"""What a resumed training arrives at once more, although it happened once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One line of the file."""

    at: str
    step: int | None
    kind: str
    message: str
    facts: dict[str, Any]

    @property
    def cause(self) -> str:
        """The message of the error that led to it; empty where none did."""
        error = self.facts.get("error")
        return str(error.get("message", "")) if isinstance(error, dict) else ""

    @property
    def identity(self) -> str:
        """What two lines about the same event have in common."""
        when = "" if self.kind in SAME_WHEN_REPEATED else self.at
        return json.dumps([when, self.step, self.kind, self.message])


def note_event(
    directory: JobDirectory, kind: str, message: str, *, step: int | None = None, **facts: Any
) -> None:
    """Append an event to those of the job. A full disk does not fail the training.

    What was not written is written with the next event, or by `write_held`.

    Args:
        directory: whose it is.
        kind: a `Kind`.
        message: a sentence for people, as it stands in the log.
        step: the optimizer step, where it is one's.
        facts: what a program may want to know, as JSON has it.
    """
    # To the microsecond: it tells an event from the same one a moment later; see `identity`.
    at = datetime.now(UTC).isoformat(timespec="microseconds")
    record = {"at": at, "step": step, "kind": kind, "message": message, "facts": facts}
    with _lock:
        held = _held.setdefault(directory.events, deque(maxlen=HELD))
        held.append(json.dumps(record))
    write_held(directory)


def write_held(directory: JobDirectory) -> None:
    """Write the events for which the disk had no room; it costs nothing when there are none."""
    with _lock:
        held = _held.get(directory.events)
        try:
            while held:
                append_line(directory.events, held[0])
                # Only after the write: an event leaves the queue when it is in the file, in its
                # order.
                held.popleft()
        except OSError:
            return


def parse_events(lines: Iterable[bytes]) -> list[Event]:
    """Return the events in `lines`; other lines are passed over: a machine may send anything."""
    found = []
    for line in lines:
        try:
            record = _record(line) if len(line) <= MAX_LINE and NUL not in line else None
        except NOT_JSON:
            record = None
        if isinstance(record, dict) and (event := _event(record)):
            found.append(event)
    return found


def _record(line: bytes) -> Any:
    """Return the JSON in a line, all of which can be sent on: real characters, real numbers."""
    # JSON has no NaN, but Python writes and reads it, and 1e999 becomes infinity; both would be
    # refused by whatever the event is sent to.
    record = json.loads(line, parse_constant=_finite, parse_float=_finite)
    # A file name may hold bytes that are not UTF-8. Python keeps them as lone surrogates (PEP 383),
    # which cannot be encoded again.
    return json.loads(json.dumps(record, ensure_ascii=False).encode(errors="replace"))


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def _event(record: dict[str, Any]) -> Event | None:
    at, step, kind = record.get("at"), record.get("step"), record.get("kind")
    message, facts = record.get("message"), record.get("facts", {})
    if not (isinstance(kind, str) and _KIND.fullmatch(kind) and isinstance(message, str)):
        return None
    if not (is_time(at) and (step is None or is_step(step)) and isinstance(facts, dict)):
        return None
    return Event(at=str(at), step=step, kind=kind, message=message, facts=facts)
