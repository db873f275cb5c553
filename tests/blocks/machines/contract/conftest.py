"""Machines of every kind."""

import pytest

from blocks.machines.local import LocalMachine
from tests.blocks.machines.contract.every_machine import MACHINES


@pytest.fixture
def over_ssh(sshd, reach):
    return reach(sshd)


@pytest.fixture
def at_home():
    return LocalMachine()


@pytest.fixture
def by_mailbox(mailbox):
    return mailbox.machine()


@pytest.fixture
def by_signed_mailbox(signed_mailbox):
    return signed_mailbox.machine()


@pytest.fixture(
    params=[
        pytest.param(name, id=id, marks=[pytest.mark.thorough] if id == "signed mailbox" else [])
        for id, name in MACHINES.items()
    ]
)
async def machine(request):
    async with request.getfixturevalue(request.param) as machine:
        yield machine
