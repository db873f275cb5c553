"""Records of `metrics.jsonl` as curves, and curves as records."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np

from gateway.metrics.codec import Steps, Values
from gateway.metrics.tables import LONGEST_METRIC
from trainer.contract.metrics import Record

TIME = "timestamp"
"""Kept as seconds since 1970."""
Curves = dict[str, tuple[Steps, Values]]


def curves_of(records: Iterable[Record]) -> Curves:
    """Return each metric of some records, in the order of the records.

    What is no number is left out, and so is a metric whose name is none: see `is_name`.
    """
    found: dict[str, tuple[list[int], list[float]]] = {}
    for record in records:
        step = record["step"]
        for name, value in record.items():
            number = _number(name, value)
            if number is None or name == "step":
                continue
            if (lists := found.get(name)) is None:
                if not is_name(name):
                    continue
                lists = found[name] = [], []
            lists[0].append(step)
            lists[1].append(number)
    return {
        name: (np.array(steps, np.int64), np.array([values], np.float64))
        for name, (steps, values) in found.items()
    }


def records_of(curves: Mapping[str, tuple[Steps, Values]]) -> list[Record]:
    """Return one record for each step of any of the curves, by step."""
    found: dict[int, Record] = {}
    for name, (steps, values) in curves.items():
        for step, value in zip(steps.tolist(), values[0].tolist(), strict=True):
            record = found.setdefault(step, {"step": step})
            record[name] = as_time(value) if name == TIME else value
    return [found[step] for step in sorted(found)]


def is_name(name: str) -> bool:
    """Whether a metric may be called that: printable, and not too long."""
    return 0 < len(name) <= LONGEST_METRIC and name.isprintable()


def as_time(seconds: float) -> str | None:
    """Return seconds since 1970 as ISO 8601."""
    try:
        moment = datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return None
    return moment.isoformat(timespec="milliseconds")


def plain(value: Any) -> Any:
    """Return a value of a record as JSON has it: no NaN, nothing infinite."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _number(name: str, value: Any) -> float | None:
    if isinstance(value, float):
        return value
    if isinstance(value, int):
        try:
            return float(value)
        except OverflowError:  # more digits than a float can have
            return math.copysign(math.inf, value)
    if name == TIME and isinstance(value, str):
        try:
            return datetime.fromisoformat(value).timestamp()
        except (ValueError, OverflowError):
            return None
    return None
