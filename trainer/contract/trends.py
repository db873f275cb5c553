"""Spikes and plateaus of the loss: reported once each, in the log and as events."""

from __future__ import annotations

from collections import deque
from statistics import median
from typing import Any

from trainer.contract.events import Kind
from trainer.contract.words import number

WINDOW = 50  # logged losses that a new one is held against
LEAST = 20  # of them, before anything is judged
SPIKE = 10.0  # times the usual distance from the median (its median: Hampel 1974)
RISE = 0.5  # and at least this share above the median: near zero, distances are tiny
PLATEAU_SHARE = 0.3  # of all steps without gain; no less than two windows of losses
GAIN = 0.01  # share by which the median of a window must fall to count as one


class Trends:
    """What the losses of a run say so far. It follows from transformers' log history alone.

    So a resumed run judges as if it had never been interrupted.
    """

    def __init__(self, logging_steps: int) -> None:
        self._logging_steps = logging_steps
        self._losses: deque[float] = deque(maxlen=WINDOW)
        self._spiking = False
        self._best: tuple[int, float] | None = None

    def resume(self, state: Any) -> None:
        """Take in what was logged before this process; nothing of it is reported again."""
        for entry in state.log_history:
            if "loss" in entry:
                self.event(entry["step"], entry["loss"], state.max_steps)

    def event(self, step: int, loss: float, total_steps: int) -> dict[str, str] | None:
        """Take in a loss; return the event that it is, with `kind` and `message`, if it is one."""
        # Judged against the losses before it: with itself in the window a spike would hide itself.
        before = list(self._losses)
        self._losses.append(loss)
        if len(before) < LEAST:
            return None
        return self._spike(step, loss, before) or self._plateau(step, before, total_steps)

    def _spike(self, step: int, loss: float, before: list[float]) -> dict[str, str] | None:
        usual = median(before)
        distance = median(abs(value - usual) for value in before)
        was_spiking = self._spiking
        # A median absolute deviation, since the mean and the variance follow the spike that they
        # should reveal.
        self._spiking = loss - usual > max(SPIKE * distance, RISE * abs(usual))
        # A spike of many steps is one event: the first.
        if not self._spiking or was_spiking:
            return None
        message = (
            f"the loss rose to {number(loss)} at step {step}; before it was about {number(usual)}"
        )
        return {"kind": Kind.LOSS_SPIKE, "message": message}

    def _plateau(self, step: int, before: list[float], total_steps: int) -> dict[str, str] | None:
        level = median(before)
        if self._best is None or level < self._best[1] - GAIN * abs(self._best[1]):
            self._best = (step, level)
        if step - self._best[0] < max(
            PLATEAU_SHARE * total_steps, 2 * WINDOW * self._logging_steps
        ):
            return None
        # Start over from here, so that a long plateau is reported now and then, not at every step.
        since, self._best = self._best[0], (step, level)
        message = f"the loss has not fallen since step {since}; it is about {number(level)}"
        return {"kind": Kind.LOSS_PLATEAU, "message": message}
