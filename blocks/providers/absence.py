"""The one rule of absence: what must be seen before something counts as not existing.

Lists lag behind creates, and so do direct look-ups; a page may be missing from one answer. What is
wrongly believed absent is hired a second time, or goes on costing money unseen. So absence is
believed when several looks in a row agree, the list and the direct look-up each time, over at least
the `settle_seconds` of the provider. That a provider says "terminated" in so many words is no
absence, and is believed at once.
"""

from __future__ import annotations

import asyncio
import time

from blocks.marks import Mark
from blocks.models import Instance, InstanceStatus
from blocks.providers.base import Provider
from trainer.contract.errors import ConnectionLost

LOOKS = 3
PAUSE = 0.5  # seconds between the first two looks; then each is half as long again
LONGEST_PAUSE = 5.0


class Absence:
    """What the looks at one instance have shown so far."""

    def __init__(self, settle_seconds: float) -> None:
        """Begin.

        Args:
            settle_seconds: how long the looks that agree must span.
        """
        self._seconds = settle_seconds
        self._first = self._last = 0.0  # the times of the looks that agree
        self._looks = 0

    def seen(self, instance: Instance | None) -> None:
        """Note what a look showed: None and the status absent count as not there."""
        if instance is not None and instance.status is not InstanceStatus.ABSENT:
            self._looks = 0
            return
        self._last = time.monotonic()
        if not self._looks:
            self._first = self._last
        self._looks += 1

    @property
    def is_proven(self) -> bool:
        """Whether it does not exist."""
        # What settles at once is its own truth, such as a folder on this computer.
        looks = LOOKS if self._seconds else 1
        return self._looks >= looks and self._last - self._first >= self._seconds


async def look(provider: Provider, mark: Mark, id: str) -> Instance | None:
    """Look once, by the id where it is known, and in the list, asked anew, where it is not found so.

    Raises:
        OrchestratorError: the provider cannot be asked, which proves nothing.
    """
    # By the id first: marks change hands, ids do not.
    if id:
        described = await provider.describe(id)
        if described.status is not InstanceStatus.ABSENT:
            return described
    found = await provider.find(mark)
    # Whoever knows the id means that machine, and none that bears the same mark beside it.
    return found if found is None or not id or found.id == id else None


async def found_or_absent(provider: Provider, mark: Mark, id: str = "") -> Instance | None:
    """Return an instance as soon as it is seen, or None once its absence is proven.

    Args:
        provider: whom to ask.
        mark: what it should bear.
        id: the provider's own name for it, where it is known.

    Raises:
        OrchestratorError: the provider cannot be asked; nothing is known then. A lost connection
            is tried again for the same time first.
    """
    absence = Absence(provider.settle_seconds)
    deadline = time.monotonic() + provider.settle_seconds
    pause = PAUSE
    while True:
        try:
            instance = await look(provider, mark, id)
        except ConnectionLost:
            if time.monotonic() >= deadline:
                raise
        else:
            if instance is not None:
                return instance
            absence.seen(None)
            if absence.is_proven:
                return None
        await asyncio.sleep(min(pause, max(0.05, deadline - time.monotonic())))
        pause = min(1.5 * pause, LONGEST_PAUSE)


def absent(provider: str, id: str) -> Instance:
    """Return what `describe` says of an instance that the provider does not find."""
    return Instance(provider=provider, id=id, mark=None, status=InstanceStatus.ABSENT)
