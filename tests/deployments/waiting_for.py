"""Wait for what other processes do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


async def until(look: Callable[[], Awaitable[T]], seconds: float = 60) -> T:
    """Look again and again until something true is seen, and return that."""
    deadline = time.monotonic() + seconds
    while not (found := await look()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{look.__qualname__} saw nothing for {seconds:.0f} s")
        await asyncio.sleep(0.1)
    return found


def until_now(look: Callable[[], T], seconds: float = 60) -> T:
    """Look again and again until something true is seen, and return that."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{look.__qualname__} saw nothing for {seconds:.0f} s")
        time.sleep(0.1)
    return found
