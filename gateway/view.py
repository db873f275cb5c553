"""What a person sees of a job: its numbers, made short. Pure functions and one data class."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from trainer.contract.metrics import Record
from trainer.contract.words import NOTHING as NOTHING
from trainer.contract.words import duration as duration
from trainer.contract.words import number as number

BLOCKS = "▁▂▃▄▅▆▇█"
SPARK_CELLS = 32
AGES = (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))
COLOURS = {
    "created": "dim",
    "initializing": "cyan",
    "running": "green",
    "pausing": "yellow",
    "stopping": "yellow",
    "paused": "yellow",
    "stopped": "yellow",
    "failed": "red",
    "completed": "bold green",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class JobView:
    """A job at one moment."""

    id: str
    name: str
    state: str
    message: str = ""
    step: int = 0
    total_steps: int = 0
    epoch: float | None = None
    train_loss: float | None = None
    eval_loss: float | None = None
    eval_loss_first: float | None = None
    losses: tuple[float, ...] = ()
    """Training loss by step, for the sparkline."""
    learning_rate: float | None = None
    tokens_per_second: float | None = None
    memory_gb: float | None = None
    """GPU memory where there is a GPU, else the trainer's main memory."""
    eta_seconds: float | None = None

    @property
    def share(self) -> float:
        """How much is done, from 0 to 1."""
        return min(1.0, self.step / self.total_steps) if self.total_steps else 0.0


def view_of(run_id: str, name: str, state: str, message: str, steps: dict[int, Record]) -> JobView:
    """Return a job's view from its records by step."""
    last: dict[str, Any] = {}
    for record in steps.values():
        # Training and evaluation write different fields of a step, and null where they have no
        # value.
        last |= {key: value for key, value in record.items() if value is not None}
    evaluations = _numbers(steps, "eval_loss")
    return JobView(
        id=run_id,
        name=name,
        state=state,
        message=message,
        step=int(last.get("step") or 0),
        total_steps=int(last.get("total_steps") or 0),
        epoch=last.get("epoch"),
        train_loss=last.get("train_loss"),
        eval_loss=evaluations[-1] if evaluations else None,
        eval_loss_first=evaluations[0] if evaluations else None,
        losses=tuple(_numbers(steps, "train_loss")),
        learning_rate=last.get("learning_rate"),
        tokens_per_second=last.get("tokens_per_second"),
        memory_gb=last.get("gpu_memory_reserved_gb") or last.get("ram_gb"),
        eta_seconds=last.get("eta_seconds"),
    )


def sparkline(values: Sequence[float], cells: int = SPARK_CELLS) -> str:
    """Return the values as blocks of eight heights; many values are averaged into `cells`."""
    if not values:
        return ""
    if len(values) > cells:
        # Edges of equal parts; rounding keeps every value in exactly one of them.
        edges = [round(cell * len(values) / cells) for cell in range(cells + 1)]
        values = [_mean(values[a:b]) for a, b in itertools.pairwise(edges)]
    low, high = min(values), max(values)
    if high == low:
        # A constant curve: half height, since there is no scale to divide by.
        return BLOCKS[3] * len(values)
    top = len(BLOCKS) - 1
    return "".join(BLOCKS[round((value - low) / (high - low) * top)] for value in values)


def age(moment: datetime | None) -> str:
    """Return how long ago a moment was, by its largest unit: 12s, 5m, 3h or 40d."""
    if moment is None:
        return NOTHING
    # The server's clock may be ahead of ours.
    passed = max(0.0, (datetime.now(UTC) - moment).total_seconds())
    unit, size = next((u, s) for u, s in AGES if passed >= s or s == 1)
    return f"{passed // size:.0f}{unit}"


def losses(view: JobView) -> str:
    """Return the losses as words: `loss 2.31  eval 2.45 (4.20 before)`."""
    parts = [f"loss {number(view.train_loss)}"]
    if view.eval_loss is not None:
        parts.append(f"eval {number(view.eval_loss)}")
        if view.eval_loss_first is not None and view.eval_loss_first != view.eval_loss:
            parts[-1] += f" ({number(view.eval_loss_first)} before)"
    return "  ".join(parts)


def speed(view: JobView) -> str:
    """Return speed and memory as words, of what is known."""
    parts = []
    if view.tokens_per_second:
        parts.append(f"{view.tokens_per_second:,.0f} tokens/s")
    if view.memory_gb:
        parts.append(f"memory {view.memory_gb:.2f} GB")
    return "  ".join(parts)


def plain_line(view: JobView) -> str:
    """Return a job's state as one line without any control code."""
    parts = [f"{view.state:<12}"]
    if view.total_steps:
        parts += [f"step {view.step}/{view.total_steps}", f"{view.share:.0%}", losses(view)]
        parts += [speed(view)] if speed(view) else []
        parts += [f"ETA {duration(view.eta_seconds)}"] if view.step < view.total_steps else []
    return "  ".join(parts).rstrip()


def printable(text: str) -> str:
    """Return text without the control codes that could play tricks on a terminal."""
    return "".join(c if c in "\t\n" or (c.isprintable()) else " " for c in text)


def _numbers(steps: dict[int, Record], name: str) -> list[float]:
    return [float(r[name]) for r in steps.values() if isinstance(r.get(name), int | float)]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
