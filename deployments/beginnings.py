"""Let only a few runs begin at a time.

Each writes a dozen times to Prefect as it begins, and a database that is asked by a hundred at once
answers none of them in time. What waits for this holds nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar
from uuid import UUID

from blocks.home import runs

AT_ONCE = 8
FEW = AT_ONCE // 2
"""So many may begin when none is let begin while others do: each look at the queue costs as much as a
beginning."""
BEGIN_SECONDS = 10.0  # in which a run has begun, or waits for something else than Prefect
AGAIN_SECONDS = 0.2

T = TypeVar("T")


class Beginnings:
    """The runs of a worker that have begun lately."""

    def __init__(self) -> None:
        self._at: dict[UUID, float] = {}
        self._looks: asyncio.TimerHandle | None = None

    def note(self, id: UUID) -> None:
        """Note that a run begins."""
        self._at[id] = time.monotonic()

    def forget(self, id: UUID) -> None:
        """Note that it has ended."""
        self._at.pop(id, None)

    @property
    def is_full(self) -> bool:
        """Whether too many begin for more to begin now."""
        return self._beginning() > AT_ONCE - FEW

    def _beginning(self) -> int:
        now = time.monotonic()
        return sum(
            now - at < BEGIN_SECONDS and not (runs() / str(id) / "train.log").exists()
            for id, at in self._at.items()
        )

    def few(self, found: list[T], again: Callable[[], None]) -> list[T]:
        """Return as many as may begin now; where some are left, have it asked again soon."""
        chosen = found[: max(0, AT_ONCE - self._beginning())]
        if len(chosen) < len(found):
            self.once_few(again)
        return chosen

    def once_few(self, again: Callable[[], None]) -> None:
        """Call back as soon as more may begin."""

        def look() -> None:
            self._looks = None
            if self.is_full:
                self.once_few(again)
            else:
                again()

        if self._looks is None:
            self._looks = asyncio.get_running_loop().call_later(AGAIN_SECONDS, look)
