"""metrics.jsonl: one object per logging step, append only. Standard library only.

After a resume steps are written again, with the same values; readers keep the last of each.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

from trainer.contract.files import NOT_JSON

Record = dict[str, Any]
MAX_LINE = 64 * 1024  # bytes; a longer line is not one of our records
# IEEE 754 doubles; JSON readers such as a browser know no other numbers.
LARGEST = 1 << 53  # whole numbers up to here are exact as floats too
NUMBERS = (
    *("step", "total_steps", "epoch", "train_loss", "eval_loss", "perplexity", "learning_rate"),
    *("grad_norm", "tokens_per_second", "samples_per_second", "eta_seconds"),
)
"""What a record may hold, with any trainer."""
GOALS = {
    "eval_loss": "lower is better",
    "train_loss": "lower is better",
    "reward": "higher is better",
    "kl": "",
    "rewards/margins": "higher is better",
    "rewards/accuracies": "higher is better",
    "accuracy": "higher is better",
    "macro_f1": "higher is better",
    "margin": "higher is better",
}
"""What shows how well a training does, and which way is good; TRL's names after the losses."""
OF_METHODS = tuple(name for name in GOALS if not name.endswith("_loss"))
"""Those that only some methods log, in training as they are and in evaluation as eval_…"""


def parse_records(lines: Iterable[bytes]) -> tuple[list[Record], int]:
    """Return the records in `lines` and how many lines were passed over as unreadable.

    The lines may have their ends or not.
    """
    records: list[Record] = []
    skipped = 0
    for line in lines:
        try:
            # The length is checked before parsing: the file comes from a machine that may send
            # anything.
            record = json.loads(line) if len(line.removesuffix(b"\n")) <= MAX_LINE else None
        except NOT_JSON:
            record = None
        if isinstance(record, dict) and is_step(record.get("step")):
            records.append({name: v for name, v in record.items() if _plain(name, v)})
        else:
            skipped += 1
    return records, skipped


def by_step(
    records: Iterable[Record], earlier: Mapping[int, Record] | None = None
) -> dict[int, Record]:
    """Return one record per step, in order; of a step written twice, the last wins.

    An evaluation and a training record of the same step are one.

    Args:
        records: as they were written.
        earlier: what was returned for the records before these.
    """
    steps = dict(earlier or {})
    for record in records:
        # Merged rather than replaced: the evaluation is logged after the loss of the same step.
        steps[record["step"]] = steps.get(record["step"], {}) | record
    return dict(sorted(steps.items()))


def read_metrics(path: Path) -> tuple[dict[int, Record], int]:
    """Return the records of a metrics file by step, and the count of unreadable lines."""
    try:
        with path.open("rb") as stream:
            records, skipped = parse_records(_lines(stream))
    except FileNotFoundError:
        return {}, 0
    return by_step(records), skipped


def final_metrics(path: Path) -> dict[str, float]:
    """Return the number of steps, and the first and last value of every metric that counts.

    For the evaluation loss also the best value, and its step.
    """
    steps, _ = read_metrics(path)
    facts = {"steps": float(max(steps, default=0))}
    # Of several data sets each has a loss of its own: eval_<name>_loss.
    of_sources = {n: n for r in steps.values() for n in r if re.fullmatch("eval_.+_loss", n)}
    usual = ("train_loss", "eval_loss", *OF_METHODS, *(f"eval_{name}" for name in OF_METHODS))
    for name in dict.fromkeys((*usual, *of_sources)):
        values = [(r[name], step) for step, r in steps.items() if _is_number(r.get(name))]
        if values:
            facts |= {f"{name}_first": values[0][0], name: values[-1][0]}
        if values and name == "eval_loss":
            facts["eval_loss_best"], facts["eval_loss_best_step"] = min(values)
    return facts


def _lines(stream: BinaryIO) -> Iterator[bytes]:
    """Yield the lines of a file; of one that is too long, only enough to be recognised as such."""
    while line := stream.readline(MAX_LINE + 2):
        rest = line
        # Skip to the end of the line without holding it; what is left is long enough to be refused.
        while rest and not rest.endswith(b"\n"):
            rest = stream.readline(MAX_LINE + 2)
        yield line.removesuffix(b"\n")


def is_step(value: Any) -> bool:
    """Whether it is the number of a step."""
    # Not isinstance: JSON true is an int to Python, and would be step 1.
    return type(value) is int and 0 <= value <= LARGEST


def _plain(name: str, value: Any) -> bool:
    """Whether a value can be shown and added up: NaN, words and nested values cannot."""
    if name == "timestamp":
        return is_time(value)
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or (isinstance(value, int) and abs(value) <= LARGEST)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_time(value: Any) -> bool:
    """Whether it is a time as ISO 8601 that says its zone."""
    try:
        # A time without a zone cannot be compared with those of another machine.
        return datetime.fromisoformat(value).utcoffset() is not None
    except (TypeError, ValueError):
        return False
