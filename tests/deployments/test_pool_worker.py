"""How many jobs a worker starts on its computer."""

from __future__ import annotations

from datetime import timedelta
from uuid import uuid4

import pytest
from prefect import get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate, WorkPoolCreate
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.schedules import IntervalSchedule

from blocks.marks import Mark
from blocks.models import Offer
from blocks.providers.local import Local
from deployments.flow_process import SafeConfiguration
from deployments.pool_worker import PoolWorker, fitting, others_at_work
from flows.locks import locked
from flows.run_folder import RunFolder
from tests.waiting import until
from trainer.contract.job_directory import JobDirectory

FORM = {"type": "object", "properties": {"job": {}}, "required": ["job"]}
OFFER = Offer(provider="local", instance_type="CPU", region="local", price_per_hour=0.0)


async def test_a_job_that_somebody_else_trains_here_takes_a_place_while_its_flow_lives():
    mine, theirs, dead = uuid4(), uuid4(), uuid4()
    for id in (mine, theirs, dead):
        await Local().launch(OFFER, Mark.of_run(id, 1), None)

    async with locked(RunFolder(mine).lock), locked(RunFolder(theirs).lock):
        assert await others_at_work({mine}) == {theirs}
        assert await others_at_work(set()) == {mine, theirs}
    assert await others_at_work(set()) == set()


async def test_a_training_whose_flow_was_killed_keeps_its_place():
    job = uuid4()
    await Local().launch(OFFER, Mark.of_run(job, 1), None)
    again = await Local().launch(OFFER, Mark.of_run(job, 2), None)

    with JobDirectory(again.workspace).owned() as held:
        assert held is not None
        assert await others_at_work(set()) == {job}
        assert await others_at_work({job}) == set()
        async with locked(RunFolder(job).lock):
            assert await others_at_work(set()) == {job}
    assert await others_at_work(set()) == set()


def test_a_training_without_its_flow_lets_only_its_own_run_start():
    orphan, second, third = uuid4(), uuid4(), uuid4()

    assert fitting([second], {orphan}, 1) == set()
    assert fitting([second, orphan], {orphan}, 1) == {orphan}
    assert fitting([second, orphan, third], {orphan}, 2) == {second, orphan}
    assert fitting([second, orphan], {orphan}, 0) == {orphan}
    assert fitting([second, third], set(), 1) == {second}


def test_a_flow_process_bridges_minutes_without_prefect_before_its_flow_begins():
    configuration = SafeConfiguration()

    configuration.prepare_for_flow_run(FlowRun(flow_id=uuid4()))

    # The pauses of Prefect's client double, from two seconds on.
    retries = int(configuration.env["PREFECT_CLIENT_MAX_RETRIES"])
    assert sum(2**number for number in range(1, retries + 1)) > 300


@pytest.mark.usefixtures("prefect_api")
async def test_a_run_of_a_schedule_without_a_job_fails_and_says_why():
    pool, soon = f"pool-{uuid4()}", IntervalSchedule(interval=timedelta(seconds=1))
    async with get_client() as client:
        await client.create_work_pool(WorkPoolCreate(name=pool, type="process"))
        flow_id = await client.create_flow_from_name(f"scheduled-{uuid4()}")
        deployment = await client.create_deployment(
            flow_id,
            name="nightly",
            work_pool_name=pool,
            parameter_openapi_schema=FORM,
            enforce_parameter_schema=True,
            schedules=[DeploymentScheduleCreate(schedule=soon, active=True)],
        )
        only = DeploymentFilter(id=DeploymentFilterId(any_=[deployment]))

        async def failed():
            await worker.get_and_submit_flow_runs()
            runs = await client.read_flow_runs(deployment_filter=only)
            return [run for run in runs if run.state.is_failed()]

        async with PoolWorker(pool, 1) as worker:
            await worker.sync_with_backend()
            run, *_ = await until(failed)
        await client.delete_deployment(deployment)

    assert run.state.message == (
        "This run has no job: put it into the parameters of its deployment or of its schedule."
    )
