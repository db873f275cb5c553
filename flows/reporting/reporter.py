"""Reporting while a flow works on a run: in the flow's process, beside everything else.

It never runs where the training does: no step waits for it, no key leaves this computer, and
losing a machine loses no report, because what is reported is at home already.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import httpx

from blocks.providers.connections import new_client
from flows.logger import logger
from flows.reporting import alerts
from flows.reporting.delivery import POST_SECONDS, Delivery, Feed, feeds_of
from flows.reporting.platform import Platform
from flows.reporting.spool import Spool, Who
from flows.reporting.watching import Watch
from flows.run_folder import RunFolder
from trainer.config import TrainingJob
from trainer.contract.errors import OrchestratorError, TrainingFailed

INTERVAL_SECONDS = 1.0
FINISH_SECONDS = 10.0  # that the flow's end waits for a receiver that is down
# The same when the process must end: Prefect kills it 30 s after SIGTERM, and saving comes first.
CANCELLED_SECONDS = 3.0


@asynccontextmanager
async def reporting(job: TrainingJob, run: RunFolder) -> AsyncIterator[None]:
    """Report metrics and alerts of the run while the body runs, if a platform is set up.

    Trouble with it is logged and never fails the job. What cannot be delivered by the end stays
    in the run's folder, and reconcile goes on with it.
    """
    # Off the loop: a key may be kept in a vault.
    reporter = _reporter(job, run, await asyncio.to_thread(Platform.of_environment))
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
        # Not a `TaskScope`: it would wait for as long as it takes, and a disk may hang.
        # At rest only when the flow ended by itself: a cancelled process may be one of two, and
        # the other goes on with the training and its newest step.
        reporter.close(at_rest=patience == FINISH_SECONDS)
        await asyncio.wait({running}, timeout=patience)
        running.cancel()
        await asyncio.wait({running}, timeout=CANCELLED_SECONDS)


def _reporter(job: TrainingJob, run: RunFolder, platform: Platform) -> Reporter | None:
    """Return what reports this run; None when no platform is set up, or that of another job."""
    for problem in platform.problems:
        logger().warning("%s", problem)
    if not (platform.metrics or platform.alerts):
        return None
    spool = Spool(run)
    who = spool.who()
    if who and not platform.is_of(who.job_id):
        logger().warning(
            "nothing is reported: this run reports as job %s, and JOB_ID names another. "
            "Unset JOB_ID, or set the JOB_ID and JOB_TOKEN of that job.",
            who.job_id,
        )
        return None
    # What the first execution reported as stays, even when the environment has changed since: the
    # platform knows the job by it.
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
        # Two events, in this order: `_asked` ends the watching, whose last look may note another
        # alert; only then does `_closing` let the pumps stop at an empty spool.
        self._closing = asyncio.Event()
        self._at_rest = False

    async def run(self) -> None:
        """Report until `close` was called and everything is delivered that its receiver takes."""
        async with new_client(POST_SECONDS) as client:
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
            # Read before delivering: what is noted while a delivery is under way gets another turn.
            closing = self._closing.is_set()
            result = await feed.deliver_next(client, at_rest=closing and self._at_rest)
            if result is Delivery.MOVED:
                continue
            # Refused, or asked to wait for longer than the flow's end may take: reconcile's turn.
            if closing and (result is not Delivery.LATER or feed.pause > FINISH_SECONDS):
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
        await asyncio.to_thread(watch.look)  # what came between the last look and the end


async def _unless(event: asyncio.Event, seconds: float) -> None:
    """Sleep for some seconds, or until the event if that comes first."""
    with suppress(TimeoutError):
        # wait_for of Python 3.11 can swallow a cancellation; 3.12 has it rewritten:
        # https://github.com/python/cpython/issues/86296
        async with asyncio.timeout(seconds):
            await event.wait()


async def _guarded(work: Awaitable[None]) -> None:
    """Do the work; whatever goes wrong is logged and ends only this work, never the job."""
    try:
        await work
    except Exception as error:  # noqa: BLE001 - the outer edge: no report is worth a job
        logger().warning("reporting stopped (%s); reconcile takes over", type(error).__name__)
