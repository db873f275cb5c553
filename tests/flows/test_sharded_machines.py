"""A model split across two machines: every machine's part of a checkpoint counts, and comes home."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from prefect import get_client

from flows.execute import create_run
from flows.renting.journal import Journal
from flows.run_folder import RunFolder
from gateway.control import ask_pause, reshape
from tests.clouds.lambda_cloud import LambdaCloud
from tests.flows.flow_runs import make_job
from tests.flows.test_two_machines import losses, said, state_of
from tests.flows.two_hosts import two_hosts
from tests.waiting import until
from trainer.config import TrainingJob
from trainer.contract.checkpoints import all_checkpoints, check
from trainer.contract.events import parse_events
from trainer.contract.job_directory import JobDirectory, JobState

pytestmark = [pytest.mark.usefixtures("prefect_api"), pytest.mark.thorough]
STEPS = {"max_steps": 30, "eval_steps": 15, "save_steps": 5, "parallelism": "fsdp"}
TOLERANCE = 1e-3
"""Relative: see `tests.trainer.training.test_sharded_training`; over 30 steps roundings add up."""


@pytest.fixture
def hosts(tmp_path, monkeypatch):
    with two_hosts(tmp_path, monkeypatch) as hosts:
        yield hosts


def on_two() -> TrainingJob:
    resources = {"nodes": 2, "gpu_count": 0, "cpu_threads": 1}
    job = make_job().model_dump()
    changes = {"provider": "ssh", "training": {**job["training"], **STEPS}}
    return TrainingJob.model_validate({**job, **changes, "resources": resources})


def undisturbed(folder: Path, job: TrainingJob) -> dict[str, Any]:
    """Return the curve of two processes of this computer."""
    folder.mkdir()
    directory = JobDirectory(folder)
    config = job.training.model_dump(mode="json")
    directory.job.write_text(json.dumps({"config": config, "world": {"processes": 2}}))
    subprocess.run([sys.executable, "-m", "trainer", folder], check=True, capture_output=True)
    return losses(directory.metrics)


def numbers(curve: dict[str, Any]) -> dict[tuple[str, int], float]:
    """Return the losses of training and evaluation that are there."""
    return {(n, i): v for n, pair in curve.items() for i, v in enumerate(pair) if v is not None}


@pytest.mark.timeout(600)
@pytest.mark.fault(140, "fsdp: a machine's trainer killed, then other processes")
async def test_a_kill_a_pause_and_other_processes_change_nothing(hosts, flow_process, tmp_path):
    run = RunFolder((await create_run(on_two())).id)
    flow = flow_process(run.run_id)
    await until(lambda: hosts.directory(0).read_status().step >= 7)

    os.kill(hosts.directory(1).read_status().trainer_pid, signal.SIGKILL)
    await until(lambda: said(run, "started the training on 2 machines from checkpoint-"))
    async with get_client() as client:
        await ask_pause(client, await client.read_flow_run(run.run_id))
    output = await flow.ended()
    assert await state_of(run) is JobState.PAUSED, output
    assert "restart 1 of 2 after TrainerKilled: SIGKILL ended rank 1" in output
    newest = all_checkpoints(run.checkpoints)[0]
    check(newest)
    assert {path.name for path in newest.glob("shards/__*")} == {"__0_0.distcp", "__1_0.distcp"}

    async with get_client() as client:
        paused = await client.read_flow_run(run.run_id)
        await reshape(client, paused, nodes=None, processes=2)
    output = await flow_process(run.run_id).ended()

    assert await state_of(run) is JobState.COMPLETED, output
    assert f"started the training on 2 machines from {newest.name}" in output
    expected = await asyncio.to_thread(undisturbed, tmp_path / "alone", on_two())
    assert numbers(losses(run.metrics)) == pytest.approx(numbers(expected), rel=TOLERANCE)
    assert hosts.jobs() == []


async def test_machines_that_replace_lost_ones_get_their_parts(tmp_path, monkeypatch, flow_process):
    with LambdaCloud(tmp_path / "lambda") as cloud:
        cloud.rates.factor = 0.0
        for variable, value in cloud.environ().items():
            monkeypatch.setenv(variable, value)
        job = on_two().model_copy(update={"provider": "lambda"})
        run = RunFolder((await create_run(job)).id)
        flow = flow_process(run.run_id)
        await until(lambda: all_checkpoints(run.checkpoints), 180)

        second = next(one for one in cloud.all if one.name.endswith("-1-1"))
        cloud.preempt(second.id)
        output = await flow.ended()

        assert await state_of(run) is JobState.COMPLETED, output
        assert cloud.alive() == []
    assert Journal.of(run).lost_machines == 1
    kinds = [event.kind for event in parse_events(run.events.read_bytes().splitlines())]
    assert kinds.index("saved") < kinds.index("resumed")
    expected = await asyncio.to_thread(undisturbed, tmp_path / "alone", on_two())
    assert numbers(losses(run.metrics)) == pytest.approx(numbers(expected), rel=TOLERANCE)
