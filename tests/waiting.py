"""Wait for what other processes do, however busy the computer is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

PATIENCE = 120.0
"""Seconds. Waiting for long costs nothing where it succeeds; a whole test may take 300."""
PAUSE = 0.01


async def until(
    look: Callable[[], Awaitable[Any]] | Callable[[], Any], seconds: float = PATIENCE
) -> Any:
    """Look again and again until something true is seen, and return that."""
    deadline = time.monotonic() + seconds
    while True:
        since = time.monotonic()
        value = look()
        if asyncio.iscoroutine(value):
            value = await value
        if value:
            return value
        await asyncio.sleep(_pause(look, since, deadline))


def until_now(look: Callable[[], Any], seconds: float = PATIENCE) -> Any:
    """Look again and again until something true is seen, and return that."""
    deadline = time.monotonic() + seconds
    while True:
        since = time.monotonic()
        if value := look():
            return value
        time.sleep(_pause(look, since, deadline))


def _pause(look: Callable[[], Any], since: float, deadline: float) -> float:
    """Return for how long to leave the processor to others: as long as the look took, at least."""
    now = time.monotonic()
    if now > deadline:
        raise TimeoutError(f"{look.__qualname__} saw nothing in time")
    return PAUSE + now - since
