"""What ends a phase or a training from outside: a cancellation, a pause, the limit on the cost."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from uuid import UUID

from prefect.client.schemas.objects import State
from prefect.logging import get_run_logger

from blocks.task_scope import TaskScope
from flows.announcing import pause_is_wanted
from flows.logger import logger
from flows.outcome import cancel_was_asked
from flows.prefect_api import UNANSWERED
from flows.renting.budget import Budget
from flows.run_folder import RunFolder
from flows.run_state import is_cancelled
from flows.wanted import DELETED, until_next_look, wanted_of
from trainer.config import TrainingJob
from trainer.contract.job_directory import Desired

POLL_SECONDS = 1.0

Ask = Callable[[Desired, str], Awaitable[None]]


class CancelAsked(Exception):
    """Somebody cancelled the job while no training was followed that could save and stop."""


class Hearing:
    """Whether cancellation and cap break off the body, or are passed on to a training in it."""

    def __init__(self) -> None:
        self.training_hears = False


@asynccontextmanager
async def heard(job: TrainingJob, run: RunFolder) -> AsyncIterator[Hearing]:
    """Break off the body when the job is cancelled or its money is used up, in whatever it does.

    Booting, sending and fetching may each take an hour.

    Raises:
        CancelAsked: it was cancelled.
        BudgetExceeded: the money is used up.
    """
    hearing, ends = Hearing(), list[Exception]()
    budget = Budget.of_run(job, run)
    if await cancel_was_asked():
        raise CancelAsked
    if budget.left() <= 0:
        raise budget.exceeded()
    try:
        # The watchers cannot raise into the body. They can set a timer without a limit to "now",
        # which cancels the body from outside and comes out as TimeoutError.
        async with asyncio.timeout(None) as timer, TaskScope() as scope:

            def end(error: Exception) -> None:
                if not hearing.training_hears and not ends:
                    ends.append(error)
                    logger().warning("breaking off: %s", error if str(error) else "cancelled")
                    timer.reschedule(asyncio.get_running_loop().time())

            # Side by side: a Prefect that is slow to answer must not delay the cap.
            scope.start(_watch_cancel(UUID(run.run_id), hearing, end))
            scope.start(_watch_cap(budget, end))
            yield hearing
    except TimeoutError:
        if ends:
            raise ends[0] from None
        raise  # a TimeoutError of the body itself


async def _watch_cancel(run_id: UUID, hearing: Hearing, end: Callable[[Exception], None]) -> None:
    while True:
        # A training that hears is told by `watch_requests`, which asks the same.
        if not hearing.training_hears and await cancel_was_asked():
            end(CancelAsked())
        await until_next_look(run_id)


async def _watch_cap(budget: Budget, end: Callable[[Exception], None]) -> None:
    while True:
        if budget.left() <= 0:
            end(budget.exceeded())
        await asyncio.sleep(POLL_SECONDS)


async def watch_requests(run_id: UUID, ask: Ask) -> None:
    """Pass each request on to the training, once. Runs until it is cancelled.

    A worker signals the processes that it started. A run in a terminal, or one whose worker
    died, learns of its cancellation only here.
    """
    asked: Desired | None = None
    while True:
        try:
            state = await wanted_of(run_id)
        except UNANSWERED as error:
            # An API that is away for a while hides no request: it lasts in the run's state.
            get_run_logger().debug("Prefect's API does not answer: %s", error)
        else:
            desired = requested_by(state)
            if desired and desired is not asked:
                asked = desired
                why = "paused" if desired is Desired.PAUSE else "cancelled"
                if state and state.message == DELETED:
                    why = DELETED
                    # Prefect shows no log of such a run: this is for that of its process.
                    logging.getLogger(__name__).warning(
                        "job %s: %s; saving and ending", run_id, why
                    )
                get_run_logger().info("asked to %s: saving a checkpoint first", desired)
                await ask(desired, why)
        await until_next_look(run_id)


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
