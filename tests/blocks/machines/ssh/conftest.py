"""A machine over SSH, with and without a proxy before it."""

import pytest

from tests.clouds.proxy import Proxy


@pytest.fixture
async def machine(sshd, reach):
    async with reach(sshd) as machine:
        yield machine


@pytest.fixture
async def proxy(sshd):
    async with Proxy(sshd.address, sshd.port) as proxy:
        yield proxy


@pytest.fixture
async def behind_proxy(proxy, reach):
    async with reach(proxy) as machine:
        yield machine
