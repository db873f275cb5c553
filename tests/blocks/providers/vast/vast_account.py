"""What the tests of Vast.ai share besides fixtures."""

import asyncio
import time

from tests.clouds.cloud import Fault
from trainer.config import Limits, Resources

NAME = "to-0a1b2c3d-" + 32 * "0" + "-1"


ASKS = "/api/v0/asks/"


async def offered(provider, limits=None, **resources):
    return await provider.offers(Resources(**resources), Limits(**(limits or {})))


async def launched(provider, key, name=NAME, **resources):
    return await provider.launch((await offered(provider, **resources))[0], name, key)


async def until(provider, id, status, seconds=20.0):
    deadline = time.monotonic() + seconds
    while (instance := await provider.describe(id)).status is not status:
        assert time.monotonic() < deadline, instance
        await asyncio.sleep(0.02)
    return instance


def answered(path, status, code, words="No.", **more):
    body = {"success": False, "error": code, "msg": words, **more}
    return Fault(kind="status", path=path, status=status, body=body)
