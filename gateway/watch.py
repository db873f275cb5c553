"""Follow a job to its rest, from its mirror on this computer or from Prefect alone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from uuid import UUID

import httpx
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import PrefectHTTPStatusError

from flows.outcome import job_state
from flows.run_folder import RunFolder
from flows.streaming.board import MetricsTail
from gateway import jobs
from gateway.live import Display
from trainer.metrics import Record

POLL_SECONDS = 1.0
PATIENCE_SECONDS = 60.0  # for an API that does not answer; Prefect's own client retries as well

Steps = Callable[[], Awaitable[dict[int, Record]]]


def mirrored(run_id: UUID) -> Steps:
    """Return a reader of the metrics that this computer's mirror of the run holds."""
    tail = MetricsTail(RunFolder(run_id).metrics)

    async def read() -> dict[int, Record]:
        tail.read_new()
        return tail.steps

    return read


def published(client: PrefectClient, run_id: UUID) -> Steps:
    """Return a reader of the metrics that Prefect holds; it works from anywhere."""

    async def read() -> dict[int, Record]:
        return (await jobs.metrics(client, [run_id])).get(run_id, {})

    return read


async def show(client: PrefectClient, run_id: UUID, steps: Steps, screen: Display) -> FlowRun:
    """Show the job once and return its run."""
    run = await client.read_flow_run(run_id)
    screen.show(jobs.view(run, await steps()))
    return run


async def until_rest(client: PrefectClient, run_id: UUID, steps: Steps, screen: Display) -> FlowRun:
    """Show the job until it is at rest and return its run.

    Raises:
        httpx.TransportError: the API did not answer for a minute.
    """
    answered = time.monotonic()
    while True:
        try:
            run = await show(client, run_id, steps, screen)
            answered = time.monotonic()
            if job_state(run).at_rest:
                # The last metrics are published just before the state is set.
                return await show(client, run_id, steps, screen)
        except (httpx.TransportError, PrefectHTTPStatusError):
            if time.monotonic() - answered > PATIENCE_SECONDS:
                raise
        await asyncio.sleep(POLL_SECONDS)
