"""A run takes its GPUs when its training begins, waits for them, and goes on when they break."""

from __future__ import annotations

import asyncio
import gc
import json
from uuid import UUID

import pytest
from prefect import get_client

from blocks.allotted import allotted
from flows.execute import create_run, execute
from flows.shown import job_state
from tests.flows.flow_runs import Job, of_stand_in
from tests.stand_in import stand_in
from tests.waiting import until
from trainer.config import TrainingJob
from trainer.contract.gpu_locks import Allocation, Holder, holders, take
from trainer.contract.job_directory import JobState

pytestmark = [
    pytest.mark.usefixtures("prefect_api"),
    pytest.mark.thorough,
    # Prefect leaves sockets open where a flow runs in the process of the test.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

ANOTHER = Holder.here(name="another")


def on_a_gpu(folder, *words, **resources) -> TrainingJob:
    job = of_stand_in(stand_in(folder, *words))
    wanted = job.resources.model_copy(update={"gpu_count": 1, "cpu_threads": None, **resources})
    return job.model_copy(update={"resources": wanted})


@pytest.fixture(autouse=True)
def sockets_are_closed():
    yield
    gc.collect()  # while that is ignored


async def state_of(run_id: UUID) -> JobState:
    async with get_client() as client:
        return job_state(await client.read_flow_run(run_id))


def gpus_of(job: Job) -> list[str]:
    return json.loads(job.directory.gpus.read_text())["uuids"]


async def test_a_run_waits_for_a_gpu_that_another_has(home, tmp_path, pretended_gpus, caplog):
    pretended_gpus.set_up(1)
    go = tmp_path / "go"
    run = await create_run(on_a_gpu(tmp_path, "--steps", 8, "--hold", 5, "--go", go))
    job = Job(home, run.id)

    with take(Allocation(uuids=("GPU-0",)), ANOTHER):
        running = asyncio.create_task(execute(run.id))
        await until(lambda: "taken by another of" in caplog.text)
        assert job.directory.root.name == "none"  # nothing is made for one that waits
    await job.at_step(5)
    assert [one.run for one in holders("GPU-0")] == [str(run.id)]
    go.touch()
    await running

    assert await state_of(run.id) is JobState.COMPLETED
    assert holders("GPU-0") == []


async def test_a_run_whose_gpu_was_taken_meanwhile_has_another(home, tmp_path, pretended_gpus):
    pretended_gpus.set_up(2)
    go = tmp_path / "go"
    run = await create_run(on_a_gpu(tmp_path, "--steps", 9, "--hold", 5, "--go", go, "--fails", 7))
    job = Job(home, run.id)
    running = asyncio.create_task(execute(run.id))
    await job.at_step(5)
    first = gpus_of(job)
    go.touch()
    await running
    assert await state_of(run.id) is JobState.FAILED

    # As a worker does that gives a GPU to the run.
    [other] = {"GPU-0", "GPU-1"} - set(first)
    allotted.set(Allocation(uuids=(other,), share_gb=10, vram_gb=24))
    with take(Allocation(uuids=tuple(first)), ANOTHER):
        await execute(run.id)

    assert gpus_of(job) == [other]
    assert json.loads(job.directory.gpus.read_text())["share_gb"] == 10
