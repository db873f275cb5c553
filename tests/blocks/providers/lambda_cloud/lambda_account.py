"""What the tests of Lambda Cloud share besides fixtures."""

import asyncio
import time

from trainer.config import Limits, Resources

NAME = "to-0a1b2c3d-" + 32 * "0" + "-1"


LAUNCH = "/launch$"


async def cheapest(provider, **resources):
    return (await provider.offers(Resources(**resources), Limits()))[0]


async def launched(provider, key, name=NAME):
    return await provider.launch(await cheapest(provider), name, key)


async def until(provider, id, status, seconds=20.0):
    deadline = time.monotonic() + seconds
    while (instance := await provider.describe(id)).status is not status:
        assert time.monotonic() < deadline, instance
        await asyncio.sleep(0.02)
    return instance


async def true(condition, seconds=30.0):
    deadline = time.monotonic() + seconds
    for _ in iter(lambda: bool(condition()), True):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
