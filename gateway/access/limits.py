"""How often a caller may come: a bucket of tokens for each, in memory."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

MOST_CALLERS = 10_000
"""Whose buckets are remembered; whoever was away longest has a full one again."""


class Buckets:
    """A bucket for each caller, which fills at a steady rate."""

    def __init__(
        self, per_second: float, at_once: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rate = per_second
        self._size = at_once
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, caller: str) -> float:
        """Return how many seconds it is until the caller may come again; 0: now."""
        return max(0.0, (1 - self._filled(caller)) / self._rate)

    def take(self, caller: str) -> float:
        """Let a caller in where it may come now; return the seconds that it must wait else."""
        if wait := self.wait(caller):
            return wait
        self._buckets[caller] = (self._filled(caller) - 1, self._clock())
        self._buckets.move_to_end(caller)
        if len(self._buckets) > MOST_CALLERS:
            self._buckets.popitem(last=False)
        return 0.0

    def _filled(self, caller: str) -> float:
        level, at = self._buckets.get(caller, (self._size, 0.0))
        return min(self._size, level + (self._clock() - at) * self._rate)
