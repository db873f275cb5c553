"""Reporting while a flow works on a run: in the flow's process, beside everything else.

It never runs where the training does: no step waits for it, no key travels, and a lost machine
loses no report, for what is reported is at home already.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import httpx

from flows.logger import logger
from flows.reporting import alerts
from flows.reporting.delivery import POST_SECONDS, Feed, Result, feeds_of
from flows.reporting.platform import Platform
from flows.reporting.spool import Spool, Who
from flows.reporting.watching import Watch
from flows.run_folder import RunFolder
from trainer.config import TrainingJob
from trainer.contract.errors import OrchestratorError, TrainingFailed

INTERVAL_SECONDS = 1.0
FINISH_SECONDS = 10.0  # that the flow's end waits for a receiver that is down
CANCELLED_SECONDS = 3.0  # the same, when the process is told to end


@asynccontextmanager
async def reporting(job: TrainingJob, run: RunFolder) -> AsyncIterator[None]:
    """Report metrics and alerts of the run while what is inside goes on, if a platform is set up.

    Trouble with it is told in the log and is nobody else's. What cannot be delivered by the end
    stays in the run's folder, and reconcile goes on with it.
    """
    reporter = _reporter(job, run)
    if reporter is None:
        yield
        return
    running = asyncio.create_task(reporter.run())
    patience = FINISH_SECONDS
    try:
        yield
    except asyncio.CancelledError:
        patience = CANCELLED_SECONDS
        raise
    except Exception as error:
        alerts.failed(run, TrainingFailed(f"The flow failed ({type(error).__name__})."))
        raise
    finally:
        # No `TaskScope`: it would wait for however long it takes, and a disk may hang.
        reporter.close(at_rest=patience == FINISH_SECONDS)
        await asyncio.wait({running}, timeout=patience)
        running.cancel()
        await asyncio.wait({running}, timeout=CANCELLED_SECONDS)


def _reporter(job: TrainingJob, run: RunFolder) -> Reporter | None:
    """Return what reports this run; None when nothing is set up, or something else is."""
    platform = Platform.of_environment()
    for problem in platform.problems:
        logger().warning("%s", problem)
    if not (platform.metrics or platform.alerts):
        return None
    spool = Spool(run)
    who = spool.who()
    if who and not platform.is_of(who.job_id):
        logger().warning(
            "JOB_ID is set for another job than %s, as which this run reports: nothing is "
            "reported. Unset it, or set the JOB_ID and JOB_TOKEN of that job.",
            who.job_id,
        )
        return None
    who = who or Who(
        job_id=platform.job_id or run.run_id,
        user_id=platform.user_id,
        model_name=platform.model_name or job.training.model,
        alerts=False,
    )
    wanted = platform.alerts is not None
    try:
        spool.save_who(
            replace(
                who,
                alerts=who.alerts or wanted,
                user_id=who.user_id or platform.user_id,
                executions=who.executions + 1,
            )
        )
    except (OSError, OrchestratorError) as error:
        logger().warning("nothing is reported: %s", error)
        return None
    return Reporter(feeds_of(run, platform), Watch(job, run) if wanted else None)


class Reporter:
    """Watches for what is worth an alert and delivers what there is, side by side."""

    def __init__(self, feeds: list[Feed], watch: Watch | None) -> None:
        self._feeds = feeds
        self._watch = watch
        self._asked = asyncio.Event()
        self._closing = asyncio.Event()  # once the last alerts are noted
        self._at_rest = False

    async def run(self) -> None:
        """Report until `close` was called and everything is delivered that its receiver takes."""
        async with httpx.AsyncClient(timeout=POST_SECONDS) as client:
            await asyncio.gather(
                *(_guarded(self._pump(client, feed)) for feed in self._feeds),
                self._look(),
            )

    def close(self, *, at_rest: bool) -> None:
        """Deliver what is left and then end.

        Args:
            at_rest: whether the training has come to rest; else another flow will go on.
        """
        self._at_rest = at_rest
        for feed in self._feeds:
            feed.hurry()
        self._asked.set()

    async def _pump(self, client: httpx.AsyncClient, feed: Feed) -> None:
        while True:
            closing = self._closing.is_set()
            result = await feed.deliver_next(client, at_rest=closing and self._at_rest)
            if result is Result.MOVED:
                continue
            if closing and (result is not Result.LATER or feed.pause > FINISH_SECONDS):
                return
            pause = feed.pause or INTERVAL_SECONDS
            await (asyncio.sleep(pause) if closing else _unless(self._closing, pause))

    async def _look(self) -> None:
        if self._watch:
            await _guarded(self._looking(self._watch))
        await self._asked.wait()
        self._closing.set()

    async def _looking(self, watch: Watch) -> None:
        while not self._asked.is_set():
            await asyncio.to_thread(watch.look)
            await _unless(self._asked, INTERVAL_SECONDS)
        await asyncio.to_thread(watch.look)


async def _unless(event: asyncio.Event, seconds: float) -> None:
    """Sleep so long, or until the event."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):  # wait_for of Python 3.11 can swallow a cancellation
            await event.wait()


async def _guarded(work: Awaitable[None]) -> None:
    """Do it; whatever goes wrong is told and ends only this work, never the job."""
    try:
        await work
    except Exception as error:  # noqa: BLE001 - the outer edge: a report is worth no job
        logger().warning("reporting stopped (%s); reconcile takes over", type(error).__name__)
