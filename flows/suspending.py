"""Take Prefect's "suspend" as a request to pause: save, give the machine back, rest.

Prefect's UI sets a state that the server turns into Failed after 300 seconds, whatever the job is
doing then, and Prefect's engine breaks off the flow at its next task, leaving its machines running.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext, suppress
from datetime import UTC, datetime, timedelta

from prefect import flow_engine
from prefect.client.schemas.objects import State, StateType
from prefect.context import FlowRunContext

from flows.announcing import ask_to_pause
from flows.prefect_api import UNANSWERED, asking_once, prefect_client
from flows.run_folder import this_run_id
from flows.wanted import until_next_look, wanted_of

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


def watch_instead_of_engine() -> None:
    """Keep Prefect's engine, in this process, from watching for suspensions as well.

    For each run of a deployment it starts a thread with an event loop and a connection of its own, and
    lets the loop that executes the runs stand still until that is up: for all runs of a worker, and
    for as long as Prefect does not answer.
    """
    # See prefect/_flow_run_suspension.py; there is no setting for it, and older versions do without.
    if hasattr(flow_engine, "observe_flow_run_suspension"):
        flow_engine.observe_flow_run_suspension = lambda *_, **__: nullcontext()


def _disarm() -> None:
    """Keep Prefect's engine from breaking off the flow at its next task."""
    # The engine calls `raise_if_requested` of this object around every task, and it raises Pause;
    # see prefect/_flow_run_suspension.py. There is no setting for it.
    context = FlowRunContext.get()
    request = getattr(context, "flow_run_suspension_request", None)
    if request is not None:  # Prefect has it since 3.8
        request.raise_if_requested = lambda: None


async def _watch() -> None:
    run_id = this_run_id()
    while True:
        with suppress(*UNANSWERED):  # it may be away for a while
            if is_suspended(await wanted_of(run_id)):
                async with prefect_client() as client:
                    with asking_once():
                        await ask_to_pause(client, run_id)
        await until_next_look(run_id)
