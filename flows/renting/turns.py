"""Wait for a provider's rate limit to let a run through."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from blocks.providers.lost_answer import TURN_SECONDS
from flows.logger import logger
from trainer.contract.errors import RateLimited

T = TypeVar("T")


async def in_turn(call: Callable[[], Awaitable[T]]) -> T:
    """Return what a call gives once the providers' rate limits let it through.

    However long that takes: many runs may wait for their turn at one account, and it says nothing
    about any of them. The run's cap, and whoever cancels it, are heard meanwhile.
    """
    while True:
        try:
            return await call()
        except RateLimited as error:
            logger().info("waiting for our turn: %s", error.message)
        await asyncio.sleep(TURN_SECONDS)
