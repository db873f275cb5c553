"""The money of one run: what is left of `limits.max_cost`, and a stop when it is used up."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from flows.renting.journal import HOUR, Journal
from trainer.config import TrainingJob
from trainer.contract.errors import BudgetExceeded
from trainer.contract.words import number

# Ten years, in place of an infinity for which asyncio's timers promise nothing.
MOST_SECONDS = 10 * 365 * 24 * HOUR


class Budget:
    """Meters a run by its journal: prices as billed, failed boots and idle time included."""

    def __init__(self, job: TrainingJob, journal: Journal) -> None:
        self._cap = job.limits.max_cost
        self._journal = journal

    def left(self) -> float:
        """Return the USD that may still be spent; infinite without a cap."""
        return math.inf if self._cap is None else self._cap - self._journal.cost()

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
        # Computed once: within the body, no machine is hired and no price is expected to change.
        seconds = self.seconds_left()
        if seconds <= 0:
            raise self.exceeded()
        try:
            async with asyncio.timeout(min(seconds, MOST_SECONDS)) as timer:
                yield
        except TimeoutError:
            if timer.expired():
                raise self.exceeded() from None
            raise  # a TimeoutError of the body itself
