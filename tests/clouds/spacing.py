"""Rate limits that are seconds between two calls."""

from __future__ import annotations

import time
from collections import Counter

TOLERANCE = 0.4  # of an interval: a call that was held up on its way makes the next one look early


class Spacing:
    """Remembers when each kind of call may come next."""

    def __init__(self) -> None:
        self.factor = 1.0
        """The provider's intervals are multiplied by this; 0: no limit."""
        self.refused: Counter[str] = Counter()
        """How many calls came too early, by kind."""
        self._next: dict[str, float] = {}

    def early(self, kind: str, interval: float) -> bool:
        """Return whether a call comes too early after the one before of its kind, and count it."""
        now, interval = time.monotonic(), interval * self.factor
        if now < self._next.get(kind, 0.0) - TOLERANCE * interval:
            self.refused[kind] += 1
            return True
        self._next[kind] = max(now, self._next.get(kind, 0.0)) + interval
        return False
