"""What the tests of Google Cloud share besides fixtures."""

import dataclasses

from tests.blocks.providers.rented_account import mark
from trainer.config import Limits, Resources

INSERT = "/zones/[^/]+/instances$"


async def offered(provider, **resources):
    return await provider.offers(Resources(**{"gpu_types": ["L4"], **resources}), Limits())


async def launched(provider, key, attempt=1, *, script="", seconds=None, **resources):
    offer = (await offered(provider, **resources))[0]
    offer = dataclasses.replace(offer, lives_seconds=seconds)
    return await provider.launch(offer, mark(attempt), key, script)


def asked(cloud, instance):
    """Return the body of the insert that made an instance."""
    return cloud.account[instance.id].facts["asked"]
