"""What is known of a run's machine while its provider does not say."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from blocks.models import Instance
from flows.logger import logger
from flows.renting.hire import Hire
from trainer.contract.errors import OrchestratorError

ASK_SECONDS = 10.0  # for a provider to answer about a machine that we can reach without it
PAUSE_SECONDS = 5.0  # between two questions about a machine that we cannot


async def recalled(
    hire: Hire, ask: Callable[[], Awaitable[Instance | None]], patience: float
) -> Instance | None:
    """Return the machine of a row, as its provider describes it or else as it was when ready.

    A training must not end because a provider cannot be asked: what is recalled is reached, or
    not, and the provider's word is waited for while the training is followed.

    Args:
        hire: the row.
        ask: asks the provider.
        patience: seconds for which a provider is asked about a machine that was never ready.

    Returns:
        The machine; None when the provider says that there is none.

    Raises:
        OrchestratorError: the provider did not answer about a machine that was never ready.
    """
    deadline = time.monotonic() + patience
    while True:
        try:
            async with asyncio.timeout(ASK_SECONDS if hire.machine else None):
                instance = await ask()
        except (OrchestratorError, TimeoutError) as error:
            why = str(error) or f"no answer in {ASK_SECONDS:g} s"
            if hire.machine:
                logger().warning("%s as it was when it was ready: %s", hire.instance_id, why)
                return Instance.from_dict(hire.machine)
            if time.monotonic() >= deadline:
                raise
            logger().warning("what became of machine %s is not known yet: %s", hire.label, why)
            await asyncio.sleep(PAUSE_SECONDS)
        else:
            if instance:
                hire.seen(instance)
            return instance
