"""metrics.jsonl: one object per logging step, append only. Standard library only.

After a resume steps are written again, with the same values; readers keep the last of each.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from trainer.files import NOT_JSON

Record = dict[str, Any]
MAX_LINE = 64 * 1024  # bytes; a longer line is no record of ours


def parse_records(lines: Iterable[bytes]) -> tuple[list[Record], int]:
    """Return the records in `lines` and how many lines were passed over as unreadable."""
    records: list[Record] = []
    skipped = 0
    for line in lines:
        try:
            record = json.loads(line) if len(line) <= MAX_LINE else None
        except NOT_JSON:
            record = None
        if isinstance(record, dict) and isinstance(record.get("step"), int):
            records.append({name: value for name, value in record.items() if _plain(value)})
        else:
            skipped += 1
    return records, skipped


def by_step(records: Iterable[Record]) -> dict[int, Record]:
    """Return one record per step, in order; of a step written twice, the last wins.

    An evaluation and a training record of the same step are one.
    """
    steps: dict[int, Record] = {}
    for record in records:
        steps[record["step"]] = steps.get(record["step"], {}) | record
    return dict(sorted(steps.items()))


def read_metrics(path: Path) -> tuple[dict[int, Record], int]:
    """Return the records of a metrics file by step, and the count of unreadable lines."""
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return {}, 0
    records, skipped = parse_records(lines)
    return by_step(records), skipped


def _plain(value: Any) -> bool:
    """Whether a value can be shown and added up: NaN and nested values cannot."""
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, str | int | float) or value is None
