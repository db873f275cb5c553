"""What the tests of Azure share besides fixtures."""

from blocks.models import InstanceStatus
from tests.blocks.providers.rented_account import mark, until
from trainer.config import Limits, Resources

ORDER = r"/virtualMachines/[^/]+$"


async def offers(provider, **resources):
    return await provider.offers(Resources(**{"gpu_count": 1, **resources}), Limits())


async def launched(provider, key, attempt=1, **resources):
    offer = (await offers(provider, **resources))[0]
    return await provider.launch(offer, mark(attempt), key)


async def running(provider, key, attempt=1, **resources):
    instance = await launched(provider, key, attempt, **resources)
    return await until(provider, instance.id, InstanceStatus.RUNNING)
