"""Work beside a part of a flow, which may finish when that part ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any


@asynccontextmanager
async def working_beside(
    work: Callable[[asyncio.Event], Coroutine[Any, Any, None]],
    *,
    finish_seconds: float,
    cancelled_seconds: float,
) -> AsyncIterator[None]:
    """Do work while the body runs, and let it finish.

    Args:
        work: called with an event that is set when the body has ended; it raises nothing.
        finish_seconds: that it has from then on.
        cancelled_seconds: the same where the body is cancelled: the process must end. Also that it has
            to stop, once it was broken off.
    """
    closing = asyncio.Event()
    task = asyncio.create_task(work(closing))
    patience = finish_seconds
    try:
        yield
    except asyncio.CancelledError:
        patience = cancelled_seconds
        raise
    finally:
        closing.set()
        await asyncio.wait({task}, timeout=patience)
        task.cancel()
        await asyncio.wait({task}, timeout=cancelled_seconds)
