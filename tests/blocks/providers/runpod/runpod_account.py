"""What the tests of RunPod share besides fixtures."""

import asyncio

import asyncssh

from blocks.keys import MachineKeys
from tests.blocks.providers.rented_account import mark
from tests.waiting import PATIENCE
from trainer.config import Limits, Resources

RTX = Resources(gpu_types=["rtx4090"])


async def launched(provider, attempt=1, resources=RTX):
    [offer, *_] = await provider.offers(resources, Limits())
    return await provider.launch(
        offer, mark(attempt), MachineKeys.ordered(mark(attempt)).public_key()
    )


async def connection(instance):
    """Log in, with the patience that a fresh sshd needs."""
    key = MachineKeys.of("runpod", instance.id, instance.mark).private_key
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                return await asyncssh.connect(
                    instance.address,
                    instance.port,
                    username=instance.user,
                    client_keys=[key],
                    known_hosts=None,
                    config=[],
                )
            except (OSError, asyncssh.Error):
                await asyncio.sleep(0.05)
