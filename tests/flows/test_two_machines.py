"""The training flow on two machines at once: the same model, whatever happens to one of them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from prefect import get_client
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId

from flows.execute import create_run
from flows.renting.journal import Journal
from flows.run_folder import RunFolder
from flows.shown import job_state
from gateway.control import ask_cancel, ask_pause
from tests.clouds.lambda_cloud import LambdaCloud
from tests.flows.flow_runs import make_job
from tests.flows.two_hosts import two_hosts
from tests.processes import command_lines
from tests.waiting import until
from trainer.config import TrainingJob
from trainer.contract.events import parse_events
from trainer.contract.files import read_json
from trainer.contract.job_directory import JobDirectory, JobState
from trainer.contract.manifest import verify
from trainer.contract.metrics import read_metrics

pytestmark = [pytest.mark.usefixtures("prefect_api"), pytest.mark.thorough]
STEPS = {"max_steps": 40, "eval_steps": 20, "save_steps": 5}
LONG = {"max_steps": 300, "eval_steps": 150, "save_steps": 25}
"""Still at work when another process of ours has started."""


@pytest.fixture
def hosts(tmp_path, monkeypatch):
    with two_hosts(tmp_path, monkeypatch) as hosts:
        yield hosts


def on_two(provider: str, steps: dict[str, int] = STEPS) -> TrainingJob:
    resources = {"nodes": 2, "gpu_count": 0, "cpu_threads": 1}
    return TrainingJob.model_validate(
        {**make_job(**steps).model_dump(), "provider": provider, "resources": resources}
    )


async def state_of(run: RunFolder) -> JobState:
    async with get_client() as client:
        return job_state(await client.read_flow_run(run.run_id))


def losses(metrics: Path) -> dict[int, tuple[float | None, float | None]]:
    steps, _ = read_metrics(metrics)
    return {s: (r.get("train_loss"), r.get("eval_loss")) for s, r in steps.items()}


async def said(run: RunFolder, words: str) -> bool:
    """Whether the flow has said so."""
    here = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run.run_id]))
    async with get_client() as client:
        return any(words in log.message for log in await client.read_logs(here, limit=200))


def trained_by_two_processes(folder: Path, steps: dict[str, int] = STEPS) -> JobDirectory:
    """Return a job directory where two processes of this computer trained the same."""
    folder.mkdir()
    directory = JobDirectory(folder)
    config = make_job(**steps).training.model_dump(mode="json")
    directory.job.write_text(json.dumps({"config": config, "world": {"processes": 2}}))
    subprocess.run([sys.executable, "-m", "trainer", folder], check=True, capture_output=True)
    return directory


async def test_a_job_on_two_machines_of_which_one_is_killed_is_that_of_two_processes(
    hosts, flow_process, tmp_path
):
    run = RunFolder((await create_run(on_two("ssh"))).id)
    flow = flow_process(run.run_id)
    await until(lambda: hosts.directory(0).read_status().step >= 9)

    os.kill(hosts.directory(1).read_status().trainer_pid, signal.SIGKILL)
    output = await flow.ended()

    assert await state_of(run) is JobState.COMPLETED, output
    alone = await asyncio.to_thread(trained_by_two_processes, tmp_path / "alone")
    assert losses(run.metrics) == losses(alone.metrics)
    report = read_json(run.report)
    assert report["sha256"] == verify(alone.output)["files"]["model.safetensors"]["sha256"]
    verify(Path(report["path"]))
    [first, second] = Journal.of(run).hires
    assert (first.retries, first.is_open, second.is_open) == ({"restarts": 1}, False, False)
    assert hosts.jobs() == []
    assert run.node_log(second.attempt, second.rank).stat().st_size > 0


async def test_when_a_rented_machine_is_taken_back_both_are_replaced(
    tmp_path, monkeypatch, flow_process
):
    with LambdaCloud(tmp_path / "lambda") as cloud:
        cloud.rates.factor = 0.0
        for variable, value in cloud.environ().items():
            monkeypatch.setenv(variable, value)
        run = RunFolder((await create_run(on_two("lambda"))).id)
        flow = flow_process(run.run_id)
        await until(lambda: any(run.checkpoints.glob("checkpoint-*")), 180)

        second = next(one for one in cloud.all if one.name.endswith("-1-1"))
        cloud.preempt(second.id)
        output = await flow.ended()

        assert await state_of(run) is JobState.COMPLETED, output
        assert cloud.alive() == []
    journal = Journal.of(run)
    assert [(hire.attempt, hire.rank) for hire in journal.hires] == [(1, 0), (1, 1), (2, 0), (2, 1)]
    assert journal.lost_machines == 1
    assert all(hire.cost() > 0 and not hire.is_open for hire in journal.hires)
    kinds = [event.kind for event in parse_events(run.events.read_bytes().splitlines())]
    assert kinds.index("saved") < kinds.index("resumed")  # of the first machine, and of its heir
    alone = await asyncio.to_thread(trained_by_two_processes, tmp_path / "alone")
    assert losses(run.metrics) == losses(alone.metrics)


async def test_two_machines_survive_the_death_of_ours_and_a_pause(hosts, flow_process, tmp_path):
    run = RunFolder((await create_run(on_two("ssh", LONG))).id)
    flow = flow_process(run.run_id)
    await until(lambda: hosts.directory(0).read_status().step >= 5)
    flow.kill()

    flow = flow_process(run.run_id)
    await until(lambda: said(run, "attached to the training on 2 machines"))
    assert [hosts.directory(rank).read_status().attempt for rank in (0, 1)] == [1, 1]
    async with get_client() as client:
        await ask_pause(client, await client.read_flow_run(run.run_id))
    output = await flow.ended()
    assert await state_of(run) is JobState.PAUSED, output
    assert hosts.jobs() == []

    output = await flow_process(run.run_id).ended()
    assert await state_of(run) is JobState.COMPLETED, output
    alone = await asyncio.to_thread(trained_by_two_processes, tmp_path / "alone", LONG)
    assert losses(run.metrics) == losses(alone.metrics)


async def test_cancelling_leaves_nothing_on_either_machine(hosts, flow_process):
    run = RunFolder((await create_run(on_two("ssh", LONG))).id)
    flow = flow_process(run.run_id)
    await until(lambda: hosts.directory(0).read_status().step >= 2)

    async with get_client() as client:
        await ask_cancel(client, await client.read_flow_run(run.run_id))
    output = await flow.ended()

    assert await state_of(run) is JobState.STOPPED, output
    assert hosts.jobs() == []
    assert any(run.checkpoints.glob("checkpoint-*"))
    left = [pid for machine in hosts.machines for pid in machine.processes()]
    # The dead-man switch of a host that somebody owns goes when its lease is over.
    assert not any("trainer" in " ".join(line) for line in command_lines(left).values())
