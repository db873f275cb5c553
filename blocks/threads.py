"""Work off the event loop that ends before whoever waits for it goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from threading import Event
from typing import TypeVar

T = TypeVar("T")


async def in_thread(work: Callable[[Event], T]) -> T:
    """Run `work` off the event loop; when cancelled, set its event and wait until it has ended.

    Without the wait a retry could meet the thread still writing to the same file.
    """
    stop = Event()
    running = asyncio.ensure_future(asyncio.to_thread(work, stop))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        # The thread cannot be cancelled, only asked: it looks at the event after every chunk.
        stop.set()
        await asyncio.gather(running, return_exceptions=True)
        raise
