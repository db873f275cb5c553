"""The next metrics to report, read from the run's mirror of `metrics.jsonl`.

A step is one point, its training and its evaluation together, and it is reported once. So the
newest step waits for a later one, because its evaluation may still be running; and a step that a
resumed training repeats is skipped, because its values are the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flows.reporting.spool import DeliveryCursor
from trainer.contract.metrics import Record, parse_records
from trainer.contract.tail import TailReader

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


def next_points(
    path: Path, cursor: DeliveryCursor, *, at_rest: bool
) -> tuple[list[Record], DeliveryCursor]:
    """Return the points to report next, and the cursor for when they are delivered.

    Args:
        path: the metrics.
        cursor: how far they are.
        at_rest: whether no further line is expected: then the newest step need not wait.
    """
    # Nothing is kept in memory between two calls: any process can go on from the cursor alone.
    tail = TailReader(path, cursor.offset, chunk=READ_BYTES)
    lines = tail.read()
    steps: dict[int, Record] = {}
    starts: dict[int, int] = {}
    for start, record in _records(lines, cursor.offset):
        if _is_new(record, cursor):
            steps[record["step"]] = steps.get(record["step"], {}) | record
            starts.setdefault(record["step"], start)
    ready = sorted(steps)
    # A full chunk without a later step holds repeated steps: waiting would never end.
    if ready and ready[-1] > cursor.step and not at_rest and not (tail.is_full and len(ready) == 1):
        ready.pop()
    taken = ready[:MOST_POINTS]
    # Go on from the first line of a step that waits: it is read again, whole, with what follows.
    left = [start for step, start in starts.items() if step not in taken]
    evaluated = [step for step in taken if steps[step].get("eval_loss") is not None]
    after = replace(
        cursor,
        offset=min(left, default=tail.offset),
        step=max([cursor.step, *taken]),
        # Apart from `step`: the evaluation of a step may be written after its point was reported.
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
        # Both mean UTC in RFC 3339, and Z is understood by more parsers.
        point["timestamp"] = text.replace("+00:00", "Z")
    return point


def _is_new(record: Record, cursor: DeliveryCursor) -> bool:
    """Whether a record was not reported: a step of its own, or an evaluation that came late."""
    step: int = record["step"]
    late = record.get("eval_loss") is not None and step > cursor.evaluated
    return step > cursor.step or late


def _records(lines: list[bytes], start: int) -> Iterator[tuple[int, Record]]:
    """Yield each record and where its line begins, the first one at `start`."""
    for line in lines:
        records, _ = parse_records([line])
        if records:
            yield start, records[0]
        start += len(line)
