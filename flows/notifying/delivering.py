"""Tell people while a flow works on a run, and later what no flow could.

It happens in the flow's process, beside everything else: no step waits for it, and what is not sent
by the end lies in the outbox, with which any other process of this installation goes on.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial

from prefect.client.schemas.objects import FlowRun
from prefect.context import FlowRunContext
from prefect.utilities.urls import url_for

from blocks.threads import aside
from flows.beside import working_beside
from flows.logger import logger
from flows.notifying import noting
from flows.notifying.destinations import Destination
from flows.notifying.outbox import Outbox, outboxes
from flows.notifying.sending import Sending, send_waiting
from flows.notifying.watching import JobWatch
from flows.run_folder import RunFolder
from trainer.config import TrainingJob

LOOK_SECONDS = 2.0
FINISH_SECONDS = 5.0  # that the flow's end waits for receivers
CANCELLED_SECONDS = 2.0  # the same when the process must end
PASS_SECONDS = 20.0  # of one pass over what is left: reconcile has more to do


@asynccontextmanager
async def notifying(job: TrainingJob, run: RunFolder) -> AsyncIterator[None]:
    """Tell people of the run while the body runs.

    Trouble with it is logged, and harms nothing.
    """
    receivers = await asyncio.to_thread(_begin, job, run, _this_flow_run())
    if not receivers:
        yield
        return
    async with working_beside(
        partial(_keep_telling, job, run, receivers),
        finish_seconds=FINISH_SECONDS,
        cancelled_seconds=CANCELLED_SECONDS,
    ):
        yield


async def deliver_waiting() -> None:
    """Send what is due and no flow sent: of runs whose flow has ended, or what had to wait."""
    deadline = time.monotonic() + PASS_SECONDS
    for outbox in await asyncio.to_thread(outboxes):
        await _sent(outbox, hurry=False)
        if time.monotonic() > deadline:
            return


def _this_flow_run() -> FlowRun | None:
    context = FlowRunContext.get()
    return context.flow_run if context else None


def _begin(job: TrainingJob, run: RunFolder, flow_run: FlowRun | None) -> list[Destination]:
    labels = flow_run.labels if flow_run else {}
    link = ""
    with suppress(Exception):  # an address that is not shown harms nothing
        link = (url_for(flow_run) if flow_run else None) or ""
    return noting.begin(run, job, labels, link)


async def _keep_telling(
    job: TrainingJob, run: RunFolder, receivers: list[Destination], closing: asyncio.Event
) -> None:
    try:
        watch = JobWatch(job, run, receivers)
        boxes = [Outbox.of(one) for one in receivers]
        while True:
            # Read first: what is noted meanwhile gets another turn.
            is_last = closing.is_set()
            await asyncio.to_thread(watch.look)
            await asyncio.gather(*(_sent(box, hurry=is_last) for box in boxes if box.has_waiting()))
            if is_last:
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await closing.wait()
    except Exception as error:  # noqa: BLE001 - the outer edge: no message is worth a job
        logger().warning("people are told later (%s: %s)", type(error).__name__, error)


async def _sent(outbox: Outbox, *, hurry: bool) -> Sending:
    # A thread that nobody waits for: a receiver that hangs must not keep a process from its end.
    try:
        return await aside(lambda _: send_waiting(outbox, hurry=hurry))
    except OSError as error:  # a full disk, say: it may be sent again
        logger().warning("%s: %s", outbox.folder, error)
        return Sending(None)
