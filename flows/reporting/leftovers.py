"""Delivering what flows could not: their receiver was down when they ended, or they died."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import httpx

from blocks.providers.connections import new_client
from flows.locks import is_held
from flows.logger import logger
from flows.reporting.delivery import POST_SECONDS, Delivery, Feed, feeds_of
from flows.reporting.platform import Platform
from flows.reporting.spool import Spool
from flows.run_folder import RunFolder, run_folders

AT_MOST_SECONDS = 20.0  # of one call: reconcile has more to do
GIVE_UP_DAYS = 3.0  # after the last metric or alert


async def deliver_leftovers() -> None:
    """Deliver what is left of the runs of this computer that no flow works on.

    A receiver that is down is not tried again for the next run. What is older than three days is
    given up with a warning.
    """
    platform = await asyncio.to_thread(Platform.of_environment)
    if not (platform.metrics or platform.alerts):
        return
    deadline = time.monotonic() + AT_MOST_SECONDS
    down: set[str] = set()
    async with new_client(POST_SECONDS) as client:
        for folder in run_folders():
            # Asked before `RunFolder`, which would make the folder of a run removed meanwhile.
            if not (folder / "reporting").is_dir() or is_held(folder / ".lock"):
                continue
            # One run's damaged files must not keep back the reports of all the others.
            try:
                await _of_run(client, RunFolder(folder.name), platform, deadline, down)
            except (OSError, ValueError, TypeError, KeyError) as error:
                logger().error(
                    "the reports of run %s cannot be delivered: %s",
                    folder.name,
                    type(error).__name__,
                )


async def _of_run(
    client: httpx.AsyncClient, run: RunFolder, platform: Platform, deadline: float, down: set[str]
) -> None:
    who = Spool(run).who()
    if who is None or not platform.is_of(who.job_id):
        return  # the key that is set now is another job's, and would be refused
    for feed in feeds_of(run, platform):
        if feed.kind in down or time.monotonic() > deadline:
            continue
        if await _deliver(client, feed, run, deadline) is Delivery.LATER:
            down.add(feed.kind)


async def _deliver(
    client: httpx.AsyncClient, feed: Feed, run: RunFolder, deadline: float
) -> Delivery:
    cursor = Spool(run).cursor(feed.kind)
    if _age_days(run) > GIVE_UP_DAYS:
        if not cursor.given_up and feed.has_more():
            logger().warning(
                "run %s: its %s were not accepted for %g days and are given up",
                run.run_id,
                feed.kind,
                GIVE_UP_DAYS,
            )
            # Noted, so that the warning comes once and not with every reconcile.
            Spool(run).save_cursor(feed.kind, replace(cursor, given_up=True))
        return Delivery.NOTHING
    # Not LATER: that this run's receiver has to be left alone says nothing about other runs'.
    if time.time() < cursor.retry_at:
        return Delivery.REFUSED
    while (result := await feed.deliver_next(client, at_rest=True)) is Delivery.MOVED:
        if time.monotonic() > deadline:
            break
    return result


def _age_days(run: RunFolder) -> float:
    """Return the days since the run's last metric or alert."""
    times = [
        path.stat().st_mtime for path in (run.metrics, Spool(run).alerts_file) if path.exists()
    ]
    return (time.time() - max(times, default=0.0)) / 86400
