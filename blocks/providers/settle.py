"""What became of a create whose answer was lost, found out by the name."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from blocks.models import Instance
from trainer.contract.errors import CapacityError, ConnectionLost

PAUSE = 0.5  # seconds between the first two looks; then each is half as long again
LONGEST_PAUSE = 5.0


async def settled(
    find: Callable[[], Awaitable[Instance | None]], seconds: float, error: ConnectionLost
) -> Instance:
    """Return the instance that came of a create without an answer, looking for it by name.

    Args:
        find: asks the provider anew, every time.
        seconds: how long a fresh instance may be missing from the list; only a look after that
            proves that it does not exist.
        error: what was raised in place of the answer.

    Raises:
        CapacityError: nothing came of it.
        ConnectionLost: the provider cannot be asked; launching under the same name goes on here.
    """
    deadline = time.monotonic() + seconds
    pause = PAUSE
    while True:
        # Decided before the look: only one that begins after the deadline proves that there is
        # nothing.
        last = time.monotonic() >= deadline
        try:
            instance = await find()
        except ConnectionLost:
            if last:
                raise
            instance = None
        if instance:
            return instance
        if last:
            raise CapacityError(f"{error.message} Nothing came of it in {seconds:g} s.") from error
        await asyncio.sleep(min(pause, max(0.0, deadline - time.monotonic())))
        pause = min(1.5 * pause, LONGEST_PAUSE)
