"""Wait for a provider's rate limit, or for a GPU that others have, to let a run through."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from blocks.allotted import allotted
from blocks.providers.lost_answer import TURN_SECONDS
from flows.logger import logger
from trainer.contract.errors import GpusBusy, RateLimited

PATIENCE_SECONDS = 20.0  # for a run that was paused for this one to be gone from the GPU
LOOK_SECONDS = 2.0  # between two looks at GPUs that others have; each costs milliseconds

T = TypeVar("T")


async def in_turn(call: Callable[[], Awaitable[T]]) -> T:
    """Return what a call gives once the providers' rate limits, and who has the GPUs, let it through.

    However long that takes: many runs may wait for their turn at one account, and it says nothing
    about any of them. The run's cap, and whoever cancels it, are heard meanwhile.
    """
    said, since = "", time.monotonic()
    while True:
        pause = TURN_SECONDS
        try:
            return await call()
        except GpusBusy as error:
            pause, reason = LOOK_SECONDS, str(error)
            if allotted.get() and time.monotonic() - since > PATIENCE_SECONDS:
                # Somebody else took what the worker gave to this run, and may keep it for days.
                logger().warning("%s Any other GPU will do", error.message)
                allotted.set(None)
        except RateLimited as error:
            reason = error.message
        if reason != said:
            # A warning is shown to whoever looks on at a terminal.
            level = logging.WARNING if pause == LOOK_SECONDS else logging.INFO
            logger().log(level, "waiting for our turn: %s", reason)
            said = reason
        await asyncio.sleep(pause)
