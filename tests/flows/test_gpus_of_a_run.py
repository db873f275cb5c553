"""A run takes its GPUs when its training begins, waits for them, and goes on when they break."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
from contextlib import suppress
from pathlib import Path
from uuid import UUID

import psutil
import pytest
from prefect import get_client

from blocks.allotted import allotted
from flows.execute import create_run, execute
from flows.shown import job_state
from tests.flows.flow_runs import FlowProcess, Job, of_stand_in
from tests.processes import command_lines
from tests.stand_in import stand_in
from tests.waiting import until
from trainer.config import TrainingJob
from trainer.contract.gpu_files import sickness
from trainer.contract.gpu_locks import Allocation, Holder, holders, take
from trainer.contract.job_directory import JobState

pytestmark = [
    pytest.mark.usefixtures("prefect_api"),
    pytest.mark.thorough,
    # Prefect leaves sockets open where a flow runs in the process of the test.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

UUIDS = ["GPU-0", "GPU-1"]
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


class Watch:
    """Counts, again and again, the trainers that see each GPU: their groups of processes."""

    def __init__(self, home: Path) -> None:
        self.home = str(home)
        """Whose; other tests may run at the same time."""
        self.most = 0
        self.looks = 0

    async def look(self) -> None:
        while True:
            seen: dict[str, dict[int, int]] = {}
            for pid, words in command_lines(psutil.pids()).items():
                # The trainer's own process, which starts the stand-in, and is doubled for a moment
                # until that is executed: both are of one group, and another trainer is of another.
                if "trainer.command" not in words or not words[-1].startswith(self.home):
                    continue
                with suppress(psutil.Error, OSError):
                    uuid = psutil.Process(pid).environ().get("CUDA_VISIBLE_DEVICES", "")
                    if uuid in UUIDS:
                        seen.setdefault(uuid, {})[pid] = os.getpgid(pid)
            for pids in seen.values():
                # One may have ended before the other was looked at. Who still has a command line has
                # let go of nothing.
                still = [pid for pid, words in command_lines(pids).items() if words]
                self.most = max(self.most, len({pids[pid] for pid in still}))
            self.looks += bool(seen)
            await asyncio.sleep(0.03)


@pytest.mark.fault(129, "flow, supervisor and trainer killed while they have GPUs")
async def test_kills_free_no_gpu_that_is_used_and_keep_none_that_is_not(
    home, flow_process, tmp_path, pretended_gpus
):
    pretended_gpus.set_up(2)
    job = on_a_gpu(tmp_path, "--steps", 150, "--pace", 0.03)
    runs = [(await create_run(job)).id for _ in range(4)]
    jobs = [Job(home, run) for run in runs]
    watch = Watch(home)
    watching = asyncio.create_task(watch.look())
    first: FlowProcess = flow_process(*runs)

    def at_work() -> list[Job]:
        return [one for one in jobs if one.status().state is JobState.RUNNING]

    one, other = await until(lambda: len(at_work()) == 2 and at_work())
    await one.at_step(10)
    first.kill()  # the trainings go on, and hold their GPUs
    assert all(holders(uuid) for uuid in UUIDS)
    second = flow_process(*runs)
    os.kill(one.status().pid, signal.SIGKILL)  # the supervisor; its trainer holds the GPU
    os.kill(
        other.status().trainer_pid, signal.SIGKILL
    )  # its supervisor holds the GPU, and starts it
    assert all(holders(uuid) for uuid in UUIDS)
    await second.ended()
    watching.cancel()

    assert [await state_of(run) for run in runs] == [JobState.COMPLETED] * 4
    assert [holders(uuid) for uuid in UUIDS] == [[], []]  # none leaked
    assert watch.most == 1  # none doubled
    assert watch.looks > 10


@pytest.mark.fault(130, "a GPU breaks under a job")
async def test_a_job_whose_gpu_breaks_goes_on_on_another(
    home, flow_process, tmp_path, pretended_gpus
):
    pretended_gpus.set_up(2)
    run = (await create_run(on_a_gpu(tmp_path, "--steps", 40, "--hold", 22))).id
    job = Job(home, run)
    flow = flow_process(run)
    await job.at_step(22)
    [broken] = json.loads(job.directory.gpus.read_text())["uuids"]

    pretended_gpus.change(broken, sick="GPU is lost")
    await flow.ended()

    assert await state_of(run) is JobState.COMPLETED
    assert sickness(broken) == "GPU is lost"
    log = (job.mirror / "train.log").read_text()
    assert "resumed at 20" in log
    assert f"{broken} is out of use: GPU is lost." in log
    assert [holders(uuid) for uuid in UUIDS] == [[], []]
