"""One process executes many runs: it starts, pauses for others, queues again and takes over."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from contextlib import suppress

import httpx
import pytest
from prefect.client.schemas.objects import StateType

from blocks.home import runs
from deployments.left_runs import left_at_work, lock_of, taken_here
from deployments.pools import POOL_TYPE
from deployments.run_places import RunPlaces
from deployments.training_worker import TrainingWorker
from flows.execute import execute
from flows.job_events.spool import EventSpool
from flows.locks import locked
from flows.scheduling.labels import FOR, PLACE, allotment
from flows.scheduling.preempting import preempt, queue_again
from tests.deployments.training_site import training_site, working
from tests.flows.flow_runs import Job
from tests.waiting import until

pytestmark = [
    pytest.mark.usefixtures("prefect_api"),
    pytest.mark.xdist_group("training-worker"),
    # What Prefect's engine sends its events by lives as long as the process, here longer than a loop.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]


@pytest.fixture
async def site():
    async with training_site() as made:
        yield made


@pytest.mark.thorough
def test_prefect_finds_the_worker_by_its_type_and_its_own_as_before():
    said = "from prefect.workers.base import BaseWorker as B; f = B.get_worker_class_from_type"
    said += f"; print(f('{POOL_TYPE}').__name__, f('process').__name__)"
    done = subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=True)

    assert done.stdout.split() == ["TrainingWorker", "ProcessWorker"]


async def test_a_run_pauses_for_another_and_goes_on_at_its_old_place(site, home, tmp_path):
    go, ends = tmp_path / "go", ("--steps", 8, "--hold", 6, "--go", tmp_path / "go")
    async with working(site, 1) as worker:
        first = await site.submit(tmp_path, *ends)
        await Job(home, first).at_step(5)
        urgent = await site.submit(tmp_path, *ends, priority=90)
        waits = await until(lambda: site.is_named(urgent, "Queued"))
        place = allotment((await site.run(first)).labels).place
        preempting = await preempt(site.client, first, str(urgent))

        again = await until(lambda: site.is_named(first, "Queued"))
        await Job(home, urgent).at_step(5)
        go.touch()
        await until(lambda: site.is_named(urgent, "Completed"))
        resumed = await until(lambda: site.is_named(first, "Completed"))

    labels = (await site.run(first)).labels
    assert (waits.type, again.type) == (StateType.SCHEDULED, StateType.SCHEDULED)
    assert preempting
    assert again.state_details.scheduled_time.timestamp() == pytest.approx(place)
    assert again.message == f"paused for job {str(urgent)[-8:]}"
    assert resumed
    assert "resumed at" in (runs() / str(first) / "train.log").read_text()
    assert labels[FOR] == ""  # it has had GPUs since
    assert PLACE in labels
    assert not worker._at_work
    told = [event["event"].rpartition(".")[2] for event in EventSpool.of(str(first)).read().events]
    assert told == ["submitted", "started", "preempted", "queued", "resumed", "completed"]


async def test_what_a_worker_left_is_found_and_what_others_have_is_not(site, tmp_path):
    taken, elsewhere, alive = [await site.submit(tmp_path) for _ in range(3)]
    for id, who in ((taken, taken_here()), (alive, taken_here()), (elsewhere, "taken by x")):
        state = (await site.state(id)).model_copy(
            update={"type": StateType.PENDING, "name": "Pending", "message": who}
        )
        await site.client.set_flow_run_state(id, state, force=True)
        (runs() / str(id)).mkdir(parents=True)

    async with locked(runs() / str(alive) / ".lock"):
        left = await left_at_work(site.client, site.pool, ())
        mine = await left_at_work(site.client, site.pool, [taken])

    assert [run.id for run in left] == [taken]
    assert mine == []


async def test_a_run_that_a_person_pauses_meanwhile_is_not_queued_again(site, tmp_path):
    id = await site.submit(tmp_path)
    await site.set(id, StateType.RUNNING, "Running")
    assert await preempt(site.client, id, str(id))
    assert not await preempt(site.client, id, str(id))  # asked already

    await site.set(id, StateType.RUNNING, "Pausing")  # trainctl pause
    await site.set(id, StateType.PAUSED, "Paused")

    assert not await queue_again(site.client, await site.run(id))
    assert (await site.state(id)).type is StateType.PAUSED


async def test_a_second_worker_of_the_pool_stands_by(site):
    async with locked(lock_of(site.pool)):
        worker = TrainingWorker(site.pool, create_pool_if_not_found=False)
        assert not await worker._decides()
    assert await worker._decides()


async def test_what_has_an_environment_of_its_own_gets_a_process_of_its_own(site, tmp_path):
    id = await site.submit(tmp_path)
    pool = await site.client.read_work_pool(site.pool)
    places, run = RunPlaces(site.client), await site.run(id)

    assert (await places.of(run, pool)).flow is not None
    run.job_variables = {"env": {"HF_HOME": "/data"}}
    assert (await places.of(run, pool)).flow is None
    run.job_variables = {"stream_output": False}
    assert (await places.of(run, pool)).flow is not None


async def test_a_run_that_is_cancelled_after_it_was_given_to_us_ends_before_it_begins(
    site, tmp_path
):
    id = await site.submit(tmp_path)
    await site.set(id, StateType.PENDING, "Pending")
    await site.set(id, StateType.CANCELLING, "Cancelling")
    assert (await site.state(id)).type is StateType.CANCELLING

    ended = await execute(id, asked=False)

    assert (ended.type, ended.message) == (StateType.CANCELLED, "cancelled before it began")
    assert (await site.state(id)).name == "Stopped"


@pytest.mark.thorough
async def test_trouble_with_one_run_leaves_none_behind(site, home, tmp_path, pretended_gpus):
    pretended_gpus.set_up(3)
    go = tmp_path / "go"
    async with working(site, None) as worker:
        answered, asked = worker.client.update_flow_run_labels, []
        again = asyncio.Event()

        async def busy_once(id, labels):
            asked.append(id)
            if len(asked) == 2:
                request = httpx.Request("PATCH", f"{site.client.api_url}flow_runs/{id}/labels")
                answer = httpx.Response(503, request=request)
                raise httpx.HTTPStatusError("busy", request=request, response=answer)
            if len(asked) == 3:  # still on its way when the one before has failed
                with suppress(TimeoutError):
                    await asyncio.wait_for(again.wait(), 3)
            elif id == asked[2]:
                again.set()
            return await answered(id, labels)

        worker.client.update_flow_run_labels = busy_once
        words, one = ("--steps", 8, "--hold", 6, "--go", go), {"gpu_count": 1}
        ids = [await site.submit(tmp_path, *words, resources=one) for _ in range(3)]
        for id in ids:
            await Job(home, id).at_step(5)
        had = {allotment((await site.run(id)).labels).gpus for id in ids}
        go.touch()
        for id in ids:
            await until(lambda id=id: site.is_named(id, "Completed"))

    assert not again.is_set()
    assert len(asked) > 3
    assert had == {("GPU-0",), ("GPU-1",), ("GPU-2",)}
