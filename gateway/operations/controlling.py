"""Cancel, pause and resume jobs, by whatever means their state allows."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.states import Cancelled

from flows.saved import STOPPED
from flows.shown import job_state
from gateway.access.callers import Caller
from gateway.control import ask_cancel, ask_pause, refuse_resume, until_paused, until_stopped
from gateway.operations.finding import find_job, is_draft
from gateway.prefect.client import JobRun
from trainer.contract.errors import ConfigError
from trainer.contract.job_directory import JobState

WAIT_SECONDS = 20.0
"""For a job to come to rest before the request is answered all the same."""


async def cancel_job(
    client: PrefectClient, caller: Caller, job_id: str, *, wait: float = WAIT_SECONDS
) -> JobRun:
    """Ask a job to save and stop, and return its run: at rest, unless it takes longer than `wait`.

    Args:
        client: of Prefect.
        caller: who asks.
        job_id: the job's.
        wait: seconds.

    Raises:
        NoSuchJob: there is none of this id.
        ConfigError: it is over.
    """
    run, whole = await _both(client, caller, job_id)
    if is_draft(run):
        if job_state(run) is not JobState.CREATED:
            raise ConfigError(f"Job {job_id!r} is cancelled already.", "Create another job.")
        stopped: Any = Cancelled(name=STOPPED, message="cancelled before it was submitted")
        await client.set_flow_run_state(whole.id, stopped, force=True)
    else:
        await ask_cancel(client, whole)
        with suppress(TimeoutError):
            async with asyncio.timeout(wait):
                await until_stopped(client, whole.id, wait=True)
    return await find_job(client, caller, job_id)


async def pause_job(
    client: PrefectClient, caller: Caller, job_id: str, *, wait: float = WAIT_SECONDS
) -> JobRun:
    """Ask a job to save and pause, and return its run as `cancel_job` does.

    Raises:
        NoSuchJob: there is none of this id.
        ConfigError: it does not run.
    """
    _, whole = await _both(client, caller, job_id)
    await ask_pause(client, whole)
    with suppress(TimeoutError):
        async with asyncio.timeout(wait):
            await until_paused(client, whole.id)
    return await find_job(client, caller, job_id)


async def resume_job(client: PrefectClient, caller: Caller, job_id: str) -> JobRun:
    """Have a job that paused, stopped or failed go on where it stood, and return its run.

    Raises:
        NoSuchJob: there is none of this id.
        ConfigError: it is completed or at work, or no worker is there for it.
    """
    from flows.execute import schedule_again  # it imports the whole flow

    run, whole = await _both(client, caller, job_id)
    if is_draft(run):
        raise ConfigError(
            f"Job {job_id!r} was never submitted.", f"POST /api/training/jobs/{job_id}/submit"
        )
    if job_state(whole) is JobState.CREATED:
        raise ConfigError(f"Job {job_id!r} waits for its start already.", "Wait for it.")
    refuse_resume(whole)
    if not await schedule_again(whole.id):
        raise ConfigError(
            f"Job {job_id!r} was not given to a worker, but executed by 'trainctl run'.",
            f"On the computer where that was: trainctl resume {whole.id}",
        )
    return await find_job(client, caller, job_id)


async def _both(client: PrefectClient, caller: Caller, job_id: str) -> tuple[JobRun, FlowRun]:
    run = await find_job(client, caller, job_id)
    return run, await client.read_flow_run(run.id)
