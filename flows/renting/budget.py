"""The money of one run: what is left of `limits.max_cost`, and a stop when it is used up."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from blocks.task_scope import TaskScope
from flows.renting.hire import HOUR
from flows.renting.journal import Journal
from flows.run_folder import RunFolder
from trainer.config import TrainingJob
from trainer.contract.errors import BudgetExceeded
from trainer.contract.words import number

# Between two looks at what is left: a timer of asyncio stands still while the computer sleeps, and
# the machine is billed on.
LOOK_SECONDS = 5.0


class Budget:
    """Meters a run by its journal: prices as billed, failed boots and idle time included."""

    def __init__(self, job: TrainingJob, journal: Journal) -> None:
        self._cap = job.limits.max_cost
        self._journal = journal
        self._seen: int | None = None

    @classmethod
    def of_run(cls, job: TrainingJob, run: RunFolder) -> Budget:
        """Return one that follows the journal's file, which the steps of a flow write."""
        budget = cls(job, Journal.of(run))
        budget._seen = _changed_at(run)
        return budget

    def left(self) -> float:
        """Return the USD that may still be spent; infinite without a cap."""
        if self._cap is None:
            return math.inf
        # Only when it was written: between, the hours are metered by a clock that does not jump.
        if self._seen is not None and (seen := _changed_at(self._journal.run)) != self._seen:
            self._journal, self._seen = Journal.of(self._journal.run), seen
        return self._cap - self._journal.cost()

    def seconds_left(self) -> float:
        """Return how long what is hired now can still be paid."""
        price_per_hour = self._journal.price_per_hour()
        if price_per_hour <= 0 or self._cap is None:
            return math.inf
        return max(0.0, self.left()) / price_per_hour * HOUR

    def exceeded(self) -> BudgetExceeded:
        """Return the error that says how much of the limit was spent."""
        return BudgetExceeded(
            f"limits.max_cost reached: {number(self._journal.cost())} of {self._cap:g} USD are spent."
        )

    @asynccontextmanager
    async def guard(self) -> AsyncIterator[None]:
        """Break off the body when the money is used up.

        Raises:
            BudgetExceeded: the money is used up.
        """
        if self.left() <= 0:
            raise self.exceeded()
        try:
            # The watcher cannot raise into the body: it lets a timer expire that has no limit.
            async with asyncio.timeout(None) as timer, TaskScope() as scope:
                scope.start(self._watch(timer))
                yield
        except TimeoutError:
            if timer.expired():
                raise self.exceeded() from None
            raise  # a TimeoutError of the body itself

    async def _watch(self, timer: asyncio.Timeout) -> None:
        while True:
            seconds = self.seconds_left()
            if seconds <= 0:
                timer.reschedule(asyncio.get_running_loop().time())
                return
            await asyncio.sleep(min(LOOK_SECONDS, seconds))


def _changed_at(run: RunFolder) -> int:
    try:
        return run.journal.stat().st_mtime_ns
    except FileNotFoundError:
        return 0
