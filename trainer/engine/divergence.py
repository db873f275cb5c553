"""When the loss is NaN or infinite: what is reported, and how to go on at a lower rate."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from trainer.contract.errors import TrainingDiverged
from trainer.contract.words import number

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LOSSES_TOLD = 5
ROWS_TOLD = 8
CHARACTERS = 120  # of a row


class Recent:
    """The batches of the last optimizer step with their losses, to tell which one broke it."""

    def __init__(self, batches: int) -> None:
        self._seen: deque[tuple[Any, Any]] = deque(maxlen=min(batches, ROWS_TOLD))

    def add(self, loss: Any, inputs: Any) -> None:
        """Remember a batch; the loss stays on its device, so that nothing is waited for."""
        # detach(), or the graph of every remembered batch would stay in memory.
        self._seen.append((loss.detach(), inputs))

    def rows(self, tokenizer: PreTrainedTokenizerBase) -> list[str]:
        """Return how the rows of batches with a NaN or infinite loss begin, or else all rows."""
        broken = [batch for loss, batch in self._seen if not math.isfinite(float(loss))]
        batches = broken or [batch for _, batch in self._seen]
        rows = [row for batch in batches for row in _rows(batch)][:ROWS_TOLD]
        return [repr(tokenizer.decode(row)[:CHARACTERS]) for row in rows]


def _rows(batch: Any) -> list[Any]:
    """Return the rows' token ids; without padding they lie one after the other, of shape (1, n)."""
    if not isinstance(batch, Mapping) or "input_ids" not in batch:
        return []
    ids, positions = batch["input_ids"], batch.get("position_ids")
    if positions is None:
        return list(ids)
    begins = (positions.flatten() == 0).nonzero().flatten().tolist()
    ends = [*begins[1:], None]
    return [ids.flatten()[begin:end] for begin, end in zip(begins, ends, strict=True)]


def diverged(what: str, state: Any) -> TrainingDiverged:
    """Return the error, with the losses before.

    Args:
        what: which value is not finite, and at which step.
        state: of transformers' trainer.
    """
    history = (entry for entry in state.log_history if math.isfinite(entry.get("loss", math.nan)))
    steps = list(deque(history, LOSSES_TOLD))
    before = ", ".join(f"{number(entry['loss'])} at step {entry['step']}" for entry in steps)
    rate = f"; the learning rate was {number(steps[-1]['learning_rate'])}" if steps else ""
    return TrainingDiverged(f"{what}{f'; the losses before: {before}' if before else ''}{rate}.")


def lower_rates(optimizer: Any, scheduler: Any, learning_rate: float) -> None:
    """Make a loaded optimizer and its scheduler go on at a lower learning rate.

    Args:
        optimizer: with the rates of its checkpoint.
        scheduler: its scheduler; the shape of its curve stays.
        learning_rate: the highest rate from here on. Rates that are there already stay as they are.
    """
    highest = max(getattr(scheduler, "base_lrs", None) or [g["lr"] for g in optimizer.param_groups])
    factor = min(1.0, learning_rate / highest)
    for group in optimizer.param_groups:
        group["lr"] *= factor
        if "initial_lr" in group:
            group["initial_lr"] *= factor
    # LambdaLR computes every rate from base_lrs, so the shape of the schedule stays; _last_lr is
    # what transformers logs until the next step.
    for name in ("base_lrs", "_last_lr"):
        if hasattr(scheduler, name):
            setattr(scheduler, name, [rate * factor for rate in getattr(scheduler, name)])
