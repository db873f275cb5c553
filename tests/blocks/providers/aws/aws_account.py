"""What the tests of AWS share besides fixtures."""

from tests.blocks.providers.rented_account import mark
from tests.clouds.faults import Fault
from trainer.config import Limits, Resources

RUN = "/RunInstances$"


async def offered(provider, **resources):
    return await provider.offers(Resources(**{"gpu_count": 1, **resources}), Limits())


async def launched(provider, key, attempt=1, script="", **resources):
    [first, *_] = await offered(provider, **resources)
    return await provider.launch(first, mark(attempt), key, script)


def refusing(code, status=400, action=RUN, times=1):
    """Return the trouble that an action is refused with a code."""
    error = f"<Error><Code>{code}</Code><Message>no</Message></Error>"
    body = f"<Response><Errors>{error}</Errors><RequestID>x</RequestID></Response>"
    return Fault(kind="status", path=action, status=status, body=body, times=times)


def orders(cloud):
    """Return how many orders AWS got."""
    return sum(count for (_, path), count in cloud.calls().items() if path.endswith("RunInstances"))
