"""The next metrics to report, read from the run's mirror of `metrics.jsonl`.

A step is one point, its training and its evaluation together, and it is reported once. So the
newest step waits until a later one is there, for its evaluation may be under way; and a step that
a resumed training repeats is passed over, for its values are the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flows.reporting.spool import Cursor
from trainer.contract.metrics import Record, parse_records

MOST_POINTS = 100  # in one request
READ_BYTES = 1 << 20  # of the metrics at a time
NUMBERS = (
    "train_loss",
    "eval_loss",
    "learning_rate",
    "grad_norm",
    "samples_per_second",
    "gpu_memory_allocated_gb",
    "gpu_utilization_percent",
    "perplexity",
)
"""What the platform's contract names, besides step, epoch and timestamp; we call it the same."""


def next_points(path: Path, cursor: Cursor, *, at_rest: bool) -> tuple[list[Record], Cursor]:
    """Return the points to report next, and the cursor for when they are delivered.

    Args:
        path: the metrics.
        cursor: how far they are.
        at_rest: whether no line is expected: then the newest step waits for nothing.
    """
    content = _read(path, cursor.offset)
    end = content.rfind(b"\n") + 1
    full = len(content) == READ_BYTES
    if end == 0:
        end = len(content) if full else 0  # a line that fills the buffer is no record
    steps: dict[int, Record] = {}
    starts: dict[int, int] = {}
    for start, record in _records(content[:end]):
        if _is_new(record, cursor):
            steps[record["step"]] = steps.get(record["step"], {}) | record
            starts.setdefault(record["step"], cursor.offset + start)
    ready = sorted(steps)
    # A full buffer without a later step holds repeated steps: waiting would be for ever.
    if ready and ready[-1] > cursor.step and not at_rest and not (full and len(ready) == 1):
        ready.pop()
    taken = ready[:MOST_POINTS]
    left = [start for step, start in starts.items() if step not in taken]
    evaluated = [step for step in taken if steps[step].get("eval_loss") is not None]
    after = replace(
        cursor,
        offset=min(left, default=cursor.offset + end),
        step=max([cursor.step, *taken]),
        evaluated=max([cursor.evaluated, *evaluated]),
    )
    return [as_point(steps[step]) for step in taken], after


def as_point(record: Record) -> Record:
    """Return a record of `metrics.jsonl` as the platform's contract has it; unknowns are left out.

    The epoch is a whole number there: how many are complete.
    """
    point: dict[str, Any] = {"step": record["step"]}
    if record.get("epoch") is not None:
        point["epoch"] = int(record["epoch"])
    point |= {name: record[name] for name in NUMBERS if record.get(name) is not None}
    if record.get("timestamp"):
        time = datetime.fromisoformat(record["timestamp"]).astimezone(UTC)
        text = time.isoformat(timespec="milliseconds")
        point["timestamp"] = text.replace("+00:00", "Z")
    return point


def _is_new(record: Record, cursor: Cursor) -> bool:
    """Whether a record was not reported: a step of its own, or an evaluation that came late."""
    step: int = record["step"]
    late = record.get("eval_loss") is not None and step > cursor.evaluated
    return step > cursor.step or late


def _records(content: bytes) -> Iterator[tuple[int, Record]]:
    """Yield each record and where its line begins."""
    start = 0
    for line in content.splitlines(keepends=True):
        records, _ = parse_records([line.rstrip(b"\n")])
        if records:
            yield start, records[0]
        start += len(line)


def _read(path: Path, offset: int) -> bytes:
    try:
        with path.open("rb") as stream:
            stream.seek(offset)
            return stream.read(READ_BYTES)
    except FileNotFoundError:
        return b""
