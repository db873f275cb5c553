"""What became of a create whose answer was lost, found out by its mark."""

from __future__ import annotations

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


async def came_of(provider: Provider, mark: Mark, error: ConnectionLost) -> Instance:
    """Return the instance that came of a create without an answer.

    Args:
        provider: who was asked to create it.
        mark: what it would bear.
        error: what was raised in place of the answer.

    Raises:
        CapacityError: nothing came of it.
        RateLimited: it asks to wait; launching under the same mark goes on here.
        Unanswered: the provider cannot be asked, or its answers cannot be read.
    """
    try:
        instance = await found_or_absent(provider, mark)
    except RateLimited:
        raise
    # Of any other kind it would say that there is certainly nothing.
    except OrchestratorError as why:
        raise Unanswered(f"{error.message} What came of it is not known: {why.message}") from why
    if instance is None:
        seconds = provider.settle_seconds
        raise CapacityError(f"{error.message} Nothing came of it in {seconds:g} s.") from error
    return instance
