"""What the tests of Vast.ai share besides fixtures."""

from tests.blocks.providers.rented_account import mark
from tests.clouds.cloud import Fault
from trainer.config import Limits, Resources

ASKS = "/api/v0/asks/"


async def offered(provider, limits=None, **resources):
    return await provider.offers(Resources(**resources), Limits(**(limits or {})))


async def launched(provider, key, attempt=1, **resources):
    return await provider.launch((await offered(provider, **resources))[0], mark(attempt), key)


def answered(path, status, code, words="No.", **more):
    body = {"success": False, "error": code, "msg": words, **more}
    return Fault(kind="status", path=path, status=status, body=body)
