"""The training flow in one allocation of two nodes: one job of Slurm, and the model of two processes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect import get_client

from flows.execute import create_run
from flows.renting.journal import Journal
from flows.run_folder import RunFolder
from gateway.control import ask_cancel, ask_pause
from tests.clouds.slurm import SlurmCluster
from tests.flows.flow_runs import make_job
from tests.flows.test_two_machines import (
    LONG,
    STEPS,
    losses,
    on_two,
    said,
    state_of,
    trained_by_two_processes,
)
from tests.waiting import until
from trainer.config import TrainingJob
from trainer.contract.job_directory import JobState
from trainer.contract.metrics import read_metrics

pytestmark = [pytest.mark.usefixtures("prefect_api"), pytest.mark.thorough]


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SlurmCluster]:
    made = SlurmCluster(tmp_path / "cluster")
    made.nodes = ["node1", "node2"]
    with made:
        for name, value in made.environ().items():
            monkeypatch.setenv(name, value)
        yield made


async def test_a_job_on_two_nodes_is_one_allocation_and_that_of_two_processes(
    cluster, flow_process, tmp_path
):
    run = RunFolder((await create_run(on_two("slurm"))).id)
    output = await flow_process(run.run_id).ended()

    assert await state_of(run) is JobState.COMPLETED, output
    assert [hire.instance_id for hire in Journal.of(run).hires] == ["1", "1+1"]
    assert cluster.alive() == []
    alone = await asyncio.to_thread(trained_by_two_processes, tmp_path / "alone", STEPS)
    assert losses(run.metrics) == losses(alone.metrics)


async def test_a_job_is_found_in_the_queue_paused_resumed_and_cancelled(cluster, flow_process):
    """Four promises on one job, for a cluster takes a while to start."""
    full = cluster.command("sbatch", "--parsable", "-N2", "--exclusive", "--wrap", "sleep 600")
    job = {**make_job(**LONG).model_dump(), "provider": "slurm", "resources": {"gpu_count": 0}}
    run = RunFolder((await create_run(TrainingJob.model_validate(job))).id)
    flow = flow_process(run.run_id)
    await until(lambda: said(run, "in the queue of main"))
    flow.kill()

    flow = flow_process(run.run_id)
    await until(lambda: said(run, "adopted"))
    cluster.command("scancel", full.strip())
    await until(lambda: max(read_metrics(run.metrics)[0], default=0) >= 5)
    async with get_client() as client:
        await ask_pause(client, await client.read_flow_run(run.run_id))
    output = await flow.ended()
    assert await state_of(run) is JobState.PAUSED, output
    assert (cluster.alive(), len(Journal.of(run).hires)) == ([], 1)
    paused_at = max(read_metrics(run.metrics)[0])

    flow = flow_process(run.run_id)
    await until(lambda: max(read_metrics(run.metrics)[0], default=0) > paused_at)
    async with get_client() as client:
        await ask_cancel(client, await client.read_flow_run(run.run_id))
    output = await flow.ended()
    assert await state_of(run) is JobState.STOPPED, output
    assert (cluster.alive(), len(Journal.of(run).hires)) == ([], 2)
    assert any(run.checkpoints.glob("checkpoint-*"))
    assert [*(cluster.shared / ".training-orchestrator" / "jobs").iterdir()] == []


async def test_a_job_whose_time_is_up_goes_on_in_the_next_allocation_and_lost_none(
    cluster, flow_process
):
    steps = {**LONG, "save_steps": 150}
    job = {**make_job(**steps).model_dump(), "provider": "slurm", "resources": {"gpu_count": 0}}
    run = RunFolder((await create_run(TrainingJob.model_validate(job))).id)
    flow = flow_process(run.run_id)
    await until(lambda: max(read_metrics(run.metrics)[0], default=0) >= 5)

    cluster.command("scontrol", "update", f"JobId={cluster.alive()[0]}", "EndTime=now+1")
    output = await flow.ended()

    assert await state_of(run) is JobState.COMPLETED, output
    journal = Journal.of(run)
    assert [hire.instance_id for hire in journal.hires] == ["1", "2"]
    assert "TimeUp" in journal.hires[0].cause
    # Saved by the notice alone, since nothing else was due.
    assert (journal.lost_machines, 0 < journal.time_up_step < 150) == (0, True)
