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
BEGIN_SECONDS = 10.0  # in which a run has begun, or waits for something else than Prefect
AGAIN_SECONDS = 0.2

T = TypeVar("T")


class Beginnings:
    """The runs of a worker that have begun lately."""

    def __init__(self) -> None:
        self._at: dict[UUID, float] = {}

    def note(self, id: UUID) -> None:
        """Note that a run begins."""
        self._at[id] = time.monotonic()

    def forget(self, id: UUID) -> None:
        """Note that it has ended."""
        self._at.pop(id, None)

    def few(self, found: list[T], again: Callable[[], None]) -> list[T]:
        """Return as many as may begin now; where some are left, have it asked again soon."""
        now = time.monotonic()
        beginning = sum(
            now - at < BEGIN_SECONDS and not (runs() / str(id) / "train.log").exists()
            for id, at in self._at.items()
        )
        chosen = found[: max(0, AT_ONCE - beginning)]
        if len(chosen) < len(found):
            asyncio.get_running_loop().call_later(AGAIN_SECONDS, again)
        return chosen
