"""What the tests of SageMaker share besides fixtures."""

from __future__ import annotations

import asyncio
import dataclasses

from tests.blocks.providers.rented_account import mark
from tests.waiting import until
from trainer.config import Limits, Resources

FIRST = "sleep 600"


async def cheapest(provider, **resources):
    asked = Resources(**{"gpu_count": 0, **resources})
    return (await provider.offers(asked, Limits()))[0]


async def launched(provider, attempt=1, first_script=FIRST, lives_seconds=None, **resources):
    offer = await cheapest(provider, **resources)
    offer = dataclasses.replace(offer, lives_seconds=lives_seconds)
    return await provider.launch(offer, mark(attempt), "key", first_script)


async def failed(provider, id):
    """Return why an order failed, as soon as it did."""

    async def failure():
        return (await provider.describe(id)).failure

    return await until(failure)


async def in_status(provider, id, status):
    while (now := await provider.describe(id)).status is not status:
        await asyncio.sleep(0.02)
    return now
