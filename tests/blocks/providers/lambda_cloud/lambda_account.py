"""What the tests of Lambda Cloud share besides fixtures."""

from tests.blocks.providers.rented_account import mark
from trainer.config import Limits, Resources

LAUNCH = "/launch$"


async def cheapest(provider, **resources):
    return (await provider.offers(Resources(**resources), Limits()))[0]


async def launched(provider, key, attempt=1):
    return await provider.launch(await cheapest(provider), mark(attempt), key)
