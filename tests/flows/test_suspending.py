"""The Suspend of Prefect's UI pauses a job for good, whenever it comes."""

from __future__ import annotations

import asyncio
import os
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest
from prefect import get_client
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import FlowRun, State, StateDetails, StateType

from flows.execute import create_run
from flows.reconcile import reconcile_once
from flows.shown import job_state
from flows.suspending import LASTING, is_suspended
from flows.train import train
from tests.conftest import PAUSES_LOOKED_AT_EVERY
from tests.flows.flow_runs import Job, patient_job
from tests.waiting import until
from trainer.contract.job_directory import JobState

pytestmark = [pytest.mark.usefixtures("prefect_api", "warm_trainers"), pytest.mark.slow]
LIMIT = timedelta(seconds=1)
LIMIT_OF_THE_UI = timedelta(seconds=300)


async def suspend(run_id: UUID, limit: timedelta = LIMIT) -> None:
    """Do what the button does."""
    details = StateDetails(pause_timeout=datetime.now(UTC) + limit, pause_reschedule=True)
    state = State(type=StateType.PAUSED, name="Suspended", state_details=details)
    async with get_client() as client:
        await client.set_flow_run_state(run_id, state, force=True)


async def deployed_run(client: PrefectClient, name: str, folder: Path) -> FlowRun:
    """Create a run that belongs to a deployment: only there Prefect's engine breaks off flows."""
    flow_id = await client.create_flow(train)
    deployment = await client.create_deployment(flow_id, name, entrypoint="flows.train.train")
    job = patient_job(folder).model_dump(mode="json")
    return await client.create_flow_run_from_deployment(deployment, parameters={"job": job})


@pytest.mark.thorough
async def test_a_job_that_is_suspended_saves_gives_its_machine_back_and_rests_for_good(
    home, flow_process, tmp_path
):
    async with get_client() as client:
        run = await deployed_run(client, "suspended", tmp_path)
    job = Job(home, run.id)
    flow = flow_process(run.id)
    trainer = (await job.at_step(5)).trainer_pid

    os.kill(trainer, signal.SIGSTOP)  # as one that saves for longer than the limit
    await suspend(run.id)
    await asyncio.sleep(LIMIT.total_seconds() + 2 * PAUSES_LOOKED_AT_EVERY)
    os.kill(trainer, signal.SIGCONT)
    said = await flow.ended()

    async with get_client() as client:
        rests = (await client.read_flow_run(run.id)).state
        only = FlowRunFilter(id=FlowRunFilterId(any_=[run.id]))
        tasks = await client.read_task_runs(flow_run_filter=only)
    assert (rests.type, rests.name) == (StateType.PAUSED, "Paused"), said
    assert rests.state_details.pause_timeout > datetime.now(UTC) + LASTING
    assert any(task.name.startswith("teardown") for task in tasks)
    assert job.is_gone()


@pytest.mark.thorough
async def test_a_suspension_before_the_training_begins_is_not_forgotten(
    home, flow_process, tmp_path
):
    run = await create_run(patient_job(tmp_path))
    flow = flow_process(run.id)

    async def begun():
        async with get_client() as client:
            return job_state(await client.read_flow_run(run.id)) is JobState.INITIALIZING

    await until(begun)
    await suspend(run.id)
    said = await flow.ended()

    async with get_client() as client:
        assert job_state(await client.read_flow_run(run.id)) is JobState.PAUSED, said
    assert Job(home, run.id).is_gone()


@pytest.mark.thorough
async def test_a_suspended_job_whose_process_dies_is_stopped_and_paused_by_reconcile(
    home, flow_process, tmp_path
):
    run = await create_run(patient_job(tmp_path))
    job = Job(home, run.id)
    flow = flow_process(run.id)
    trainer = (await job.at_step(5)).trainer_pid

    os.kill(trainer, signal.SIGSTOP)  # so that nobody sees the suspension before the kill
    flow.kill()
    await suspend(run.id, LIMIT_OF_THE_UI)  # a busy computer takes more than a second
    os.kill(trainer, signal.SIGCONT)
    await reconcile_once()

    async with get_client() as client:
        rests = (await client.read_flow_run(run.id)).state
    assert rests.type is StateType.PAUSED
    assert not is_suspended(rests)
    assert job.is_gone()
