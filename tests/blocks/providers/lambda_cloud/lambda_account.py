"""What the tests of Lambda Cloud share besides fixtures."""

from tests.blocks.providers.rented_account import NAME
from trainer.config import Limits, Resources

LAUNCH = "/launch$"


async def cheapest(provider, **resources):
    return (await provider.offers(Resources(**resources), Limits()))[0]


async def launched(provider, key, name=NAME):
    return await provider.launch(await cheapest(provider), name, key)
