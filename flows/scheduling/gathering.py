"""The runs of a pool with all that is known of them: what a decision about it is made from."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping

from flows.asking import AskApi
from flows.scheduling.measured import Measured
from flows.scheduling.reading import Reader
from flows.scheduling.seen import SeenRun
from flows.scheduling.settings import PoolSettings
from flows.scheduling.snapshot import PoolRuns, horizon
from flows.scheduling.spending import Spending

Held = Callable[[Iterable[SeenRun]], Awaitable[Mapping[str, str]]]
"""Returns, by id, why runs may not start yet whatever is free, such as a job that one comes after."""
Correct = Callable[[Mapping[str, SeenRun]], Mapping[str, SeenRun]]


class Gathering:
    """Reads one pool again and again."""

    def __init__(
        self,
        ask: AskApi,
        pool: str,
        held: Held | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Read a pool.

        Args:
            ask: asks Prefect's API.
            pool: its name.
            held: says who waits for something else.
            clock: seconds since the epoch.
        """
        self._held = held
        self._clock = clock
        self._reader = Reader(ask, pool, clock)
        self._measured = Measured(ask)
        self._spending = Spending(ask, clock)

    async def runs(
        self, settings: PoolSettings, correct: Correct = lambda active: active
    ) -> PoolRuns:
        """Return the runs of the pool.

        Args:
            settings: of the pool.
            correct: returns what runs, from what runs by Prefect.
        """
        # In this order: what ended or began since it was read last does not wait any more.
        ended = await self._reader.ended(self._clock() - horizon(settings))
        active = correct(await self._reader.active())
        found = await self._reader.waiting()
        waiting = {id: run for id, run in found.items() if id not in active}
        again = [run for run in waiting.values() if run.began is not None]
        runs = PoolRuns(
            waiting=waiting,
            active=active,
            # A run that was resumed goes on with what it had.
            ended=[run for run in ended if run.id not in active and run.id not in waiting],
            left=await self._measured.left([*active.values(), *again]),
            held=await self._held(waiting.values()) if self._held else {},
        )
        if not settings.dear:
            return runs
        usd = await self._spending.usd(runs.of_projects(settings.dear))
        return dataclasses.replace(runs, usd=usd)
