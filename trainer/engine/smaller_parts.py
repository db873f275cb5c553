"""Retry in smaller parts when memory runs out outside a training step, so that no step is lost.

A training step that does not fit ends the trainer, and the supervisor starts it again with a
smaller batch. Evaluation and generation need not end it: they are repeated, in parts.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import torch

from trainer.contract.events import Kind, note_event
from trainer.contract.world import own_rank
from trainer.engine.failures import runs_out

T = TypeVar("T")


class InParts:
    """A mixin before a transformers Trainer: evaluates and generates in parts that fit."""

    args: Any
    run: Any
    """See `JobTrainer`, which has it."""
    state: Any
    parts = 1
    """In how many parts answers are generated."""
    evaluation_seconds = 0.0
    """Spent on evaluating, by a clock that does not jump."""

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate; where memory runs out, once more with half the batch."""
        began = time.monotonic()
        work = partial(super().evaluate, *args, **kwargs)  # type: ignore[misc] # mixin
        metrics: dict[str, float] | None = None
        while metrics is None:
            smaller = self._smaller_eval_batch()
            metrics = self._tried(work, again=smaller > 0)
            if metrics is None:
                # For the rest of the run: what did not fit once would not fit at the next
                # evaluation.
                self.args.per_device_eval_batch_size = smaller
                for noted in ("_metrics", "_stored_metrics"):  # by TRL, of a part of the rows
                    getattr(self, noted, {}).get("eval", {}).clear()
                self._fall_back(
                    f"memory ran out in the evaluation: again with batches of {smaller}"
                )
        self.evaluation_seconds += time.monotonic() - began
        return metrics

    def in_parts(self, work: Callable[[slice], T], rows: int) -> list[T]:
        """Return what `work` makes of the rows from 0 on, in as many parts as memory asks for."""
        while True:
            size = -(-rows // self.parts)
            parts = [slice(begin, begin + size) for begin in range(0, rows, size)]
            results = self._tried(partial(_each, work, parts), again=size > 1)
            if results is not None:
                return results
            # Kept as well, and saved with the rollout: a resumed run need not find out again.
            self.parts *= 2
            self._fall_back(f"memory ran out for the answers: again in {self.parts} parts")

    def _tried(self, work: Callable[[], T], *, again: bool) -> T | None:
        """Return what `work` returns; None: memory ran out, and nothing is left of the try.

        With several processes it is raised, for the others wait for this one.
        """
        has_gpu = torch.cuda.is_available()
        state, on_gpu = torch.get_rng_state(), torch.cuda.get_rng_state() if has_gpu else None
        try:
            return work()
        except Exception as error:
            # A rank that repeats its work alone would leave the others in a collective; the
            # supervisor restarts all of them with a smaller batch instead.
            if not again or self.args.world_size > 1 or not runs_out(error):
                raise
        # Only outside the except clause: the traceback held the frames, and they the tensors.
        gc.collect()
        torch.set_rng_state(state)  # the same is drawn, however far the try came
        if on_gpu is not None:
            torch.cuda.empty_cache()
            torch.cuda.set_rng_state(on_gpu)
        return None

    def _fall_back(self, line: str) -> None:
        print(line, flush=True)  # noqa: T201 - standard output is the job's log
        if own_rank().is_first:
            step = self.state.global_step
            note_event(self.run.directory, Kind.FALLBACK, line, step=step)

    def _smaller_eval_batch(self) -> int:
        """Return half the batch, all answers to a prompt together; 0: it cannot be smaller."""
        # TRL compares the answers to one prompt, so a batch may not cut through them.
        group = getattr(self, "num_generations_eval", 1)
        return int(self.args.per_device_eval_batch_size // 2 // group * group)


def _each(work: Callable[[slice], T], parts: list[slice]) -> list[T]:
    return [work(part) for part in parts]
