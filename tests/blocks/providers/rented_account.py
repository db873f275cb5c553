"""What the tests of accounts at Lambda Cloud and Vast.ai share besides fixtures."""

import asyncio
import time
from contextlib import contextmanager
from uuid import UUID

from blocks.marks import Mark
from blocks.providers import api
from tests.waiting import PATIENCE


def mark(attempt=1):
    """Return the mark of a run's machine."""
    return Mark.of_run(UUID(int=0), attempt)


@contextmanager
def quick_account(monkeypatch, cloud, block, module, *caches):
    """Open an account in the environment, of a block that is in a hurry and keeps no answers."""
    monkeypatch.setattr(block, "intervals", {})
    monkeypatch.setattr(block, "settle_seconds", 0.6)
    for name in caches:
        monkeypatch.setattr(module, name, 0.0)
    monkeypatch.setattr(api, "PAUSES", (0.01, 0.02))
    monkeypatch.setattr(api, "RATE_PAUSE", 0.1)
    with cloud:
        cloud.rates.factor = 0.0
        cloud.boot_seconds = 0.1
        cloud.sshd_never = True
        for name, value in cloud.environ().items():
            monkeypatch.setenv(name, value)
        yield cloud
    assert cloud.errors == []


async def until(provider, id, status, seconds=PATIENCE):
    deadline = time.monotonic() + seconds
    while (instance := await provider.describe(id)).status is not status:
        assert time.monotonic() < deadline, instance
        await asyncio.sleep(0.02)
    return instance


async def true(condition, seconds=PATIENCE):
    deadline = time.monotonic() + seconds
    for _ in iter(lambda: bool(condition()), True):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
