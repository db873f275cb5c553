"""What training was predicted to take, and what it took, for the report of the job."""

from __future__ import annotations

import resource
import time
from typing import Any

import torch
from transformers import TrainerCallback

from trainer.engine.memory_prediction import GB, OVERHEAD_GB

PROBED_STEPS = 10  # after the first, which warms up


class Usage(TrainerCallback):  # type: ignore[misc] # transformers is not checked
    """Compares predictions with what was used, by the process that trains.

    The time is predicted by the first steps. Both times leave out the first step and evaluations,
    and are of the steps that this process makes: a resumed run has fewer.
    """

    def __init__(self, memory: dict[str, float]) -> None:
        self._memory = memory
        self._start = 0.0
        self._first_step = 0
        self._pace: float | None = None
        self.facts: dict[str, float] = {}
        """memory_gb and seconds, each predicted and used."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Forget what loading took."""
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Note the pace of the first steps."""
        now = time.monotonic()
        if not self._start:
            self._start, self._first_step = now, state.global_step
        done = state.global_step - self._first_step
        if done and done <= PROBED_STEPS:
            self._pace = (now - self._start) / done

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take an evaluation out of the time."""
        if self._start:
            # Moving the start is the same as subtracting from the end.
            self._start += kwargs["metrics"].get("eval_runtime", 0.0)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Record what was predicted beside what was used."""
        predicted, used = self._memory["peak"], peak_memory_gb()
        self.facts = {"memory_gb_predicted": predicted, "memory_gb": used}
        if self._pace is not None:
            steps = state.global_step - self._first_step
            self.facts |= {
                "seconds_predicted": steps * self._pace,
                "seconds": time.monotonic() - self._start,
            }
        self.facts = {name: round(value, 3) for name, value in self.facts.items()}


def peak_memory_gb() -> float:
    """Return the most that was held: on the GPU with CUDA's context, else in main memory."""
    if torch.cuda.is_available():
        # torch does not count the CUDA context, which the prediction includes.
        return torch.cuda.max_memory_allocated() / GB + OVERHEAD_GB["cuda"]
    # ru_maxrss is in kilobytes on Linux.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GB
