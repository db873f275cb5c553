"""What the tests of hosts one owns share besides fixtures."""

from uuid import UUID

from blocks.marks import Mark
from blocks.providers.ssh import SshHost
from trainer.config import Limits, Resources

RUN = UUID(int=7)


def provider_of(*machines, **settings):
    return SshHost(hosts=[f"{one.user}@{one.address}:{one.port}" for one in machines], **settings)


async def offers_of(provider, limits=None, **resources):
    return await provider.offers(Resources(**resources), limits or Limits())


async def launched(provider, attempt=1, **resources):
    offer = (await offers_of(provider, **{"gpu_count": 0, **resources}))[0]
    return await provider.launch(offer, Mark.of_run(RUN, attempt), None)
