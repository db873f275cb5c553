"""One process works on a run at a time, and everybody can see whose it is."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

from prefect import get_client
from prefect.exceptions import Abort

from blocks.task_scope import TaskScope
from flows.locks import locked
from flows.logger import logger
from flows.owner import claim
from flows.run_folder import RunFolder


@asynccontextmanager
async def sole_owner(run: RunFolder) -> AsyncIterator[None]:
    """Be the only process that works on this run; wait while another one does.

    A run can have two processes: for instance, when it is resumed before the first one ended.
    """
    async with locked(run.lock, wait=False) as free:
        if free:
            async with _claimed(run):
                yield
            return
    logger().warning("another process works on this run; waiting for it")
    # Waiting, not ending: Prefect would take our end for the run's, while the other still trains.
    async with locked(run.lock):
        await _still_wanted(run)
        async with _claimed(run):
            yield


@asynccontextmanager
async def _claimed(run: RunFolder) -> AsyncIterator[None]:
    # Beside the body, which must not wait for it should Prefect be away.
    async with TaskScope() as scope:
        scope.start(claim(UUID(run.run_id)))
        yield


async def _still_wanted(run: RunFolder) -> None:
    """Step aside when the other process brought the run to its end meanwhile.

    Raises:
        Abort: it did; Prefect then leaves the run's state as it is.
    """
    async with get_client() as client:
        state = (await client.read_flow_run(UUID(run.run_id))).state
    if state and (state.is_final() or state.is_paused()):
        raise Abort(f"another process brought this run to {state.name}")
