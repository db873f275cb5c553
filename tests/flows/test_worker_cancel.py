"""A job that a Prefect worker executes is cancelled: whoever asks, what is true is said last."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from prefect import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import FlowRun
from prefect.states import Cancelling
from prefect.workers.process import ProcessWorker

from flows.streaming.board import METRICS
from tests.flows.flow_runs import Job, patient_job, shipped_lines
from tests.waiting import until
from trainer.contract.checkpoints import all_checkpoints, step_of

pytestmark = pytest.mark.slow


@pytest.fixture
async def pool(prefect_api: str, home: Path, tmp_path: Path) -> AsyncIterator[str]:
    """Yield the name of a work pool that a worker of its own serves."""
    name = f"pool-{uuid4().hex[:8]}"
    template = ProcessWorker.get_default_base_job_template()
    async with get_client() as client:
        await client.create_work_pool(
            WorkPoolCreate(name=name, type="process", base_job_template=template)
        )
    with (tmp_path / "worker.log").open("wb") as log:
        worker = subprocess.Popen(  # noqa: ASYNC220 - it returns at once
            [sys.executable, "-m", "prefect", "worker", "start", "--pool", name, "--type=process"],
            env={**os.environ, "PREFECT_WORKER_QUERY_SECONDS": "1"},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield name
    finally:
        os.killpg(worker.pid, signal.SIGKILL)
        worker.wait()


async def run_on(pool: str, folder: Path) -> FlowRun:
    """Return a run that the pool's worker will execute: a long one."""
    job = patient_job(folder)
    async with get_client() as client:
        flow_id = await client.create_flow_from_name("train")
        deployment = await client.create_deployment(
            flow_id=flow_id,
            name=pool,
            work_pool_name=pool,
            entrypoint="flows.train.train",
            pull_steps=[{"prefect.deployments.steps.set_working_directory": {"directory": "/tmp"}}],
            job_variables={"stream_output": False},
        )
        return await client.create_flow_run_from_deployment(
            deployment, parameters={"job": job.model_dump(mode="json")}
        )


async def metric_steps(run_id: UUID) -> str:
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId

    async with get_client() as client:
        artifacts = await client.read_artifacts(
            artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run_id]))
        )
    return next(str(a.data) for a in artifacts if a.key == METRICS)


@pytest.mark.thorough
async def test_a_cancelled_job_of_a_worker_says_where_it_is_saved_and_its_log_is_whole(
    pool: str, home: Path, tmp_path: Path
):
    run = await run_on(pool, tmp_path)
    job = Job(home, run.id)
    await job.at_step(60)

    async with get_client() as client:
        await client.set_flow_run_state(run.id, Cancelling())  # as the button in Prefect's UI

    async def stopped() -> FlowRun | None:
        async with get_client() as client:
            now = await client.read_flow_run(run.id)
        return now if now.state and now.state.name == "Stopped" else None

    ended = await until(stopped)

    saved = step_of(all_checkpoints(job.directory.checkpoints)[0])
    assert saved == job.status().step >= 60
    assert ended.state is not None
    assert ended.state.name == "Stopped", ended.state.message
    assert ended.state.message == f"cancelled; saved at step {saved} of 20000"
    log = job.directory.log.read_text()
    assert (job.mirror / "train.log").read_text() == log
    assert await shipped_lines(run.id) == log.splitlines()
    written = job.directory.metrics.read_text()
    assert (job.mirror / "metrics.jsonl").read_text() == written
    last = re.findall(r'"step": (\d+)', written)[-1]
    assert re.findall(r'"step": (\d+)', await metric_steps(run.id))[-1] == last
    await until(job.is_gone)
