"""What became of a create whose answer was lost, found out by its mark."""

from __future__ import annotations

import asyncio

from blocks.marks import Mark
from blocks.models import Instance
from blocks.providers.absence import found_or_absent
from blocks.providers.api import Unanswered
from blocks.providers.base import Provider
from trainer.contract.errors import (
    CapacityError,
    ConnectionLost,
    OrchestratorError,
    RateLimited,
)

TURN_SECONDS = 15.0  # between two tries while the provider asks to wait


async def came_of(provider: Provider, mark: Mark, error: ConnectionLost) -> Instance:
    """Return the instance that came of a create without an answer.

    It waits for as long as the provider asks to: whoever gave up here would order once more, and a list
    that lags would not show what this order made.

    Args:
        provider: who was asked to create it.
        mark: what it would bear.
        error: what was raised in place of the answer.

    Raises:
        CapacityError: nothing came of it.
        Unanswered: the provider cannot be asked, or its answers cannot be read.
    """
    while True:
        try:
            instance = await found_or_absent(provider, mark)
            break
        except RateLimited:
            await asyncio.sleep(TURN_SECONDS)
        # Of any other kind it would say that there is certainly nothing.
        except OrchestratorError as why:
            what = f"{error.message} What came of it is not known: {why.message}"
            raise Unanswered(what) from why
    if instance is None:
        seconds = provider.settle_seconds
        raise CapacityError(f"{error.message} Nothing came of it in {seconds:g} s.") from error
    return instance
