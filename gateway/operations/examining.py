"""Look at all that can be seen of a job from here before it is created, as `trainctl submit` does."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from flows.preflight import JOB, PREFLIGHT, seen_from_here, subject_of
from trainer.config import TrainingJob
from trainer.contract.errors import ConfigError, OrchestratorError
from trainer.preflight.table import Check, refuse

MOST_SECONDS = 20.0
"""For which an answer waits; of data so large that reading it takes longer, the flow says what is wrong."""
# Two of its own: many that read data keep nothing else waiting, and each other.
_readers = ThreadPoolExecutor(2, thread_name_prefix="preflight")


async def examine_new(job: TrainingJob) -> None:
    """Refuse a job whose data, model or settings are wrong as far as can be seen from here.

    What is not on this computer is left to the worker.

    Raises:
        ConfigError: naming the field, its value and the remedy.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(MOST_SECONDS):
            await asyncio.get_running_loop().run_in_executor(_readers, _examine, job, PREFLIGHT)


async def examine_place(job: TrainingJob) -> None:
    """Refuse a job that cannot be trained where it is submitted to.

    Raises:
        ConfigError: naming the field, its value and the remedy.
    """
    await asyncio.to_thread(_examine, job, JOB)


def _examine(job: TrainingJob, checks: Sequence[Check]) -> None:
    try:
        refuse(checks, subject_of(job, for_worker=True), seen_from_here(job, for_worker=True))
    except ConfigError:
        raise
    except OrchestratorError as error:
        # Whatever kind it is where a training meets it: here it is the request that cannot be.
        raise ConfigError(error.message, error.suggestion) from None
