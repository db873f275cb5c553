"""What people ask of a running job through Prefect: to pause, or to cancel."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from uuid import UUID

import httpx
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import State
from prefect.exceptions import PrefectHTTPStatusError
from prefect.logging import get_run_logger

from blocks.task_scope import TaskScope
from flows.outcome import cancel_was_asked, is_cancelled, pause_is_wanted
from flows.renting.budget import Budget
from trainer.contract.job_directory import Desired

POLL_SECONDS = 1.0

Ask = Callable[[Desired, str], Awaitable[None]]


class CancelAsked(Exception):
    """Somebody cancelled the job before there was a training that could save and stop."""


@asynccontextmanager
async def unless_cancelled() -> AsyncIterator[None]:
    """Break off the body when the job is cancelled: a boot may take a quarter of an hour.

    Raises:
        CancelAsked: it was.
    """
    if await cancel_was_asked():
        raise CancelAsked
    try:
        # The watcher cannot raise into the body. It can set a timer without a limit to "now",
        # which cancels the body from outside and comes out as TimeoutError.
        async with asyncio.timeout(None) as timer, TaskScope() as scope:
            scope.start(_watch_cancel(timer))
            yield
    except TimeoutError:
        if timer.expired():
            raise CancelAsked from None
        raise  # a TimeoutError of the body itself


async def _watch_cancel(timer: asyncio.Timeout) -> None:
    while True:
        if await cancel_was_asked():
            timer.reschedule(asyncio.get_running_loop().time())
            return
        await asyncio.sleep(POLL_SECONDS)


async def watch_requests(client: PrefectClient, run_id: UUID, ask: Ask) -> None:
    """Pass each request on to the training, once. Runs until it is cancelled.

    A worker signals the processes that it started. A run in a terminal, or one whose worker
    died, learns of its cancellation only here.
    """
    asked: Desired | None = None
    while True:
        try:
            run = await client.read_flow_run(run_id)
        except (httpx.HTTPError, PrefectHTTPStatusError) as error:
            # An API that is away for a while hides no request: it lasts in the run's state.
            get_run_logger().debug("Prefect's API does not answer: %s", error)
        else:
            desired = requested_by(run.state)
            if desired and desired is not asked:
                asked = desired
                get_run_logger().info("asked to %s: saving a checkpoint first", desired)
                await ask(desired, "paused" if desired is Desired.PAUSE else "cancelled")
        await asyncio.sleep(POLL_SECONDS)


async def watch_budget(budget: Budget, ask: Ask) -> None:
    """Ask the training to save and stop when the money is used up. Runs until it is cancelled."""
    while True:
        if budget.left() <= 0:
            await ask(Desired.STOP, budget.exceeded().message.rstrip("."))
            await asyncio.Event().wait()
        await asyncio.sleep(POLL_SECONDS)


def requested_by(state: State | None) -> Desired | None:
    """Return what a flow run's state asks of the training."""
    if is_cancelled(state):  # before a pause: a run that was asked for both shall end
        return Desired.STOP
    if pause_is_wanted(state):
        return Desired.PAUSE
    return None
