"""Take Prefect's "suspend" as a request to pause: save, give the machine back, rest.

Prefect's UI sets a state that the server turns into Failed after 300 seconds, whatever the job is
doing then, and Prefect's engine breaks off the flow at its next task, leaving its machines running.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import State, StateType
from prefect.context import FlowRunContext

from flows.announcing import ask_to_pause
from flows.prefect_api import UNANSWERED, asking_once, prefect_client
from flows.run_folder import this_run_id

POLL_SECONDS = 1.0  # the UI takes time limits from 5 seconds
LASTING = timedelta(days=365)  # tells pauses of ours, which last ten years, from Prefect's own


@asynccontextmanager
async def suspending_means_pausing() -> AsyncIterator[None]:
    """Turn a suspension from outside into a request to pause, while the body runs."""
    _disarm()
    watching = asyncio.create_task(_watch())
    try:
        yield
    finally:
        watching.cancel()


def is_suspended(state: State | None) -> bool:
    """Whether somebody else paused a run: for a limited time, after which the server fails it."""
    if state is None or state.type is not StateType.PAUSED:
        return False
    end = state.state_details.pause_timeout
    return end is not None and end < datetime.now(UTC) + LASTING


def _disarm() -> None:
    """Keep Prefect's engine from breaking off the flow at its next task."""
    # The engine calls `raise_if_requested` of this object around every task, and it raises Pause;
    # see prefect/_flow_run_suspension.py. There is no setting for it.
    context = FlowRunContext.get()
    request = getattr(context, "flow_run_suspension_request", None)
    if request is not None:  # Prefect has it since 3.8
        request.raise_if_requested = lambda: None


async def _watch() -> None:
    async with prefect_client() as client:
        while True:
            with suppress(*UNANSWERED), asking_once():  # it may be away for a while
                await _look(client)
            await asyncio.sleep(POLL_SECONDS)


async def _look(client: PrefectClient) -> None:
    run = await client.read_flow_run(this_run_id())
    if is_suspended(run.state):
        await ask_to_pause(client, run.id)
