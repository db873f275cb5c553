"""Give a machine back: it is gone when the provider says so, not when the request is accepted."""

from __future__ import annotations

import asyncio
import time

from blocks.keys import MachineKeys
from blocks.models import Instance
from blocks.providers.base import Provider
from blocks.registry import load_provider
from flows.logger import logger
from flows.renting.journal import Hire, Journal
from trainer.contract.errors import OrchestratorError

PATIENCE_SECONDS = 120.0
LOOK_SECONDS = 1.0
AGAIN_SECONDS = 10.0  # between two requests: one may have been accepted and ignored


async def give_back(journal: Journal, hire: Hire, cause: str) -> bool:
    """Terminate the machine of a row and close the row; return whether it is certainly gone.

    One that does not go is reported, keeps being charged to the job, and is tried again by the
    next reconcile.
    """
    try:
        provider = await load_provider(hire.provider)
        # A row without an id is an order whose answer was lost: it may have come true.
        if not hire.instance_id:
            found = await provider.find(hire.name)
            hire.instance_id = found.id if found else ""
        gone = not hire.instance_id or await until_gone(provider, hire.instance_id)
    except OrchestratorError as error:
        gone = False
        logger().warning("%s", error)
    if gone:
        journal.end(hire, cause)
        MachineKeys(hire.name).remove()  # not before: a machine that stays must stay reachable
    else:
        hire.cause = f"{cause} (the provider has not ended it)"
        journal.save()
        logger().error(
            "%s of %s is not gone yet and may cost %.4g USD/h; reconcile will ask again",
            hire.instance_id or hire.name,
            hire.provider,
            hire.price_per_hour,
        )
    await journal.publish()
    return gone


async def give_back_all(journal: Journal, cause: str) -> None:
    """Terminate every machine that is still open; what they hold must be at home."""
    for hire in [hire for hire in journal.hires if hire.is_open]:
        await give_back(journal, hire, cause)


async def until_gone(provider: Provider, id: str) -> bool:
    """Ask for its end again and again until the provider says gone; False when it does not."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    asked_at: float | None = None
    while True:
        try:
            now = time.monotonic()
            if asked_at is None or now - asked_at >= AGAIN_SECONDS:
                asked_at = now
                await provider.terminate(id)
            if not _bills(await provider.describe(id)):
                return True
        except OrchestratorError as error:
            logger().warning("%s", error.message)
            asked_at = None  # whether the request arrived is unknown: send it again at once
        if time.monotonic() >= deadline:
            return False
        await asyncio.sleep(LOOK_SECONDS)


def _bills(instance: Instance) -> bool:
    return instance.status.is_billing
