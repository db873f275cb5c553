"""Launching as a flow does, in processes that a test starts."""

from __future__ import annotations

import asyncio
from uuid import uuid4

from blocks.marks import Mark
from blocks.models import Offer
from blocks.providers.base import Provider
from trainer.contract.errors import RateLimited


async def launched(provider: Provider, offer: Offer) -> None:
    """Hire a machine for a run of its own, however often its turn has to be waited for."""
    mark = Mark.of_run(uuid4(), 1)
    while True:
        try:
            await provider.launch(offer, mark, f"ssh-ed25519 {uuid4().hex}")
        except RateLimited:
            await asyncio.sleep(0.5)
        else:
            return
