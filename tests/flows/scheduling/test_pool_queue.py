"""A pool's queue on a real Prefect server: what waits is read, decided about, and told why it waits."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate, WorkPoolUpdate
from prefect.client.schemas.objects import StateType
from prefect.states import Cancelled, Completed, Pending, Running, Scheduled

from flows.owner import owned_here
from flows.scheduling import administration, reading
from flows.scheduling.labels import GPUS, MACHINE, Allotment
from flows.scheduling.pool import Decision, ExplainWait, PauseJob, StartJob
from flows.scheduling.pool_queue import PoolQueue
from flows.scheduling.preempting import preempt
from flows.scheduling.reasons import queued
from flows.shown import MACHINES, QUEUED, REVIVING
from tests.flows.scheduling.pool_site import HOST, PoolSite, pool_site


@pytest.fixture
async def site(prefect_api: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[PoolSite]:
    monkeypatch.setattr(administration, "AGAIN_SECONDS", 0.0)
    async with pool_site() as made:
        yield made


def of(decisions: Sequence[Decision], kind: type) -> list[str]:
    return [each.job for each in decisions if isinstance(each, kind)]


def reasons(decisions: Sequence[Decision]) -> dict[str, str]:
    return {each.job: each.reason for each in decisions if isinstance(each, ExplainWait)}


async def take_all(queue: PoolQueue, decisions: Sequence[Decision]) -> None:
    for each in decisions:
        if isinstance(each, StartJob):
            await queue.take(each)


async def test_what_fits_starts_and_the_rest_is_told_why_it_waits(site: PoolSite):
    first = await site.submit("first")
    both = await site.submit("both", resources={"gpu_count": 2})
    last = await site.submit("last", resources={"gpu_types": ["l4"]})
    queue = site.queue()

    made = await queue.decide()
    assert of(made, StartJob) == [first, last]
    await take_all(queue, made)
    await queue.tell(made)

    state = (await site.run(both)).state
    assert state is not None
    assert state.message is not None
    assert (state.type, state.name) == (StateType.SCHEDULED, QUEUED)
    assert state.message.startswith("is next, and waits for 2 GPUs of one machine, until 20")
    labels = (await site.run(first)).labels
    assert (labels[MACHINE], labels[GPUS]) == ("host", "GPU-0")
    # What was started is not started again, although Prefect still shows it as waiting.
    assert of(await queue.decide(), StartJob) == []
    # Whoever reads the same decides the same: another worker, after the death of this one.
    for id in (first, last):
        await site.set_state(id, Running())
    other = await site.queue().decide()
    assert reasons(other).keys() == {both}
    # Once they have let go of their GPUs, nobody waits for Prefect to notice it.
    queue.left(first)
    queue.left(last)
    assert of(await queue.decide(), StartJob) == [both]


async def test_an_urgent_job_has_another_paused_which_keeps_its_place(site: PoolSite):
    await site.set("min_run=0", "strategy=priority")
    queue = site.queue()
    short = {"max_runtime_minutes": 10}
    low = await site.submit("low", queue="low", resources={"gpu_count": 2}, limits=short)
    await take_all(queue, await queue.decide())
    await site.set_state(low, Running())
    submitted = (await site.run(low)).expected_start_time
    urgent = await site.submit("urgent", priority=90)

    made = await queue.decide()
    assert [one for one in made if isinstance(one, PauseJob)] == [PauseJob(job=low, whom=urgent)]
    assert await preempt(site.client, UUID(low), urgent)
    assert of(await queue.decide(), PauseJob) == []  # it has been asked

    queue.left(low)
    had = (await site.run(low)).labels
    place = datetime.fromisoformat(str(had["training-orchestrator.place"]))
    await site.set_state(low, queued(place.timestamp(), "paused for another"))
    assert (await site.run(low)).next_scheduled_start_time == submitted
    # Not by its place alone: it would go first as soon as its end is known to be near.
    await site.set("strategy=shortest_first")
    made = await queue.decide()
    assert (of(made, StartJob), list(reasons(made))) == ([urgent], [low])


async def test_whatever_people_set_is_obeyed_while_the_pool_runs(site: PoolSite):
    ids = [await site.submit(f"job{n}", project="vision", queue="low") for n in range(2)]
    queue = site.queue()

    async def hindered() -> set[str]:
        made = await queue.decide()
        assert len(of(made, StartJob)) + len(reasons(made)) == 2
        return set(reasons(made).values())

    assert await hindered() == set()
    await site.set("max_concurrent_jobs=1")
    assert await hindered() == {"the pool runs 1 jobs at most"}
    await site.set("max_concurrent_jobs=", "quotas.vision.gpus=1")
    assert await hindered() == {"project vision may have 1 GPUs at once, and has 1"}
    await site.set("quotas=", "gpus=[5]")
    assert await hindered() == {
        "can never start here: it needs 1 GPUs at once, and no machine of the pool has more than 0"
    }
    await site.set("gpus=")
    name = site.pool
    work_queue = await site.client.read_work_queue_by_name("low", work_pool_name=name)
    await site.client.update_work_queue(work_queue.id, concurrency_limit=1)
    assert await hindered() == {"queue low runs 1 jobs at most"}
    await site.client.update_work_queue(work_queue.id, is_paused=True)
    assert await hindered() == {"queue low is paused"}
    await site.client.update_work_pool(name, WorkPoolUpdate(is_paused=True))
    assert await hindered() == {"the pool is paused"}
    assert set(ids) == set(queue.waiting)


async def test_a_run_whose_process_died_goes_on_where_it_has_its_gpus(site: PoolSite):
    dead = await site.submit("dead")
    queue = site.queue()
    [start] = [one for one in await queue.decide() if isinstance(one, StartJob)]
    await queue.take(start)
    assert owned_here().items() <= (await site.run(dead)).labels.items()
    await site.set_state(dead, Scheduled(name=REVIVING))
    other = await site.submit("other", resources={"gpu_count": 2})

    made = await site.queue().decide()  # the next worker
    assert made[0] == start
    assert list(reasons(made)) == [other]


async def test_a_reason_undoes_no_cancellation(site: PoolSite):
    await site.submit("both", resources={"gpu_count": 2})
    queue = site.queue()
    await take_all(queue, await queue.decide())
    waits = await site.submit("waits")
    made = await queue.decide()
    assert list(reasons(made)) == [waits]
    await site.set_state(waits, Cancelled())
    await queue.tell(made)
    state = (await site.run(waits)).state
    assert state is not None
    assert state.type is StateType.CANCELLED
    assert waits not in reasons(await queue.decide())


async def test_of_a_long_queue_only_the_news_are_read(
    site: PoolSite, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(reading, "PAGE", 3)
    monkeypatch.setattr(reading, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(reading, "FEW", 0)
    monkeypatch.setattr(reading, "REST", 0.0)
    # Four of one moment: more than a page.
    hours = [datetime.now(UTC) - timedelta(hours=n) for n in (5, 1)]
    hours = [hours[0]] * 4 + hours[1:]
    old = [
        await site.submit(f"old{n}", state=Scheduled(scheduled_time=at))
        for n, at in enumerate(hours)
    ]
    await site.submit("tomorrow", state=Scheduled(scheduled_time=hours[0] + timedelta(days=1)))
    queue = site.queue()

    async def known() -> list[str]:
        await queue.decide()
        return [run.name for run in queue.waiting.values()]

    assert sorted(await known()) == [f"old{n}" for n in range(5)]
    again = await site.submit("again", state=Scheduled(scheduled_time=hours[0]))
    # Not news by its time: it is found because it has run before.
    await site.set_state(again, Running())
    await site.set_state(again, queued(hours[0].timestamp(), "paused for another"))
    await site.submit("new")
    await site.set_state(old[1], Cancelled())
    await site.set_state(old[2], Pending())
    assert sorted(await known()) == ["again", "new", "old0", "old3", "old4"]
    # What leaves no trace is found by counting.
    await site.client.delete_flow_run(uuid.UUID(old[4]))
    monkeypatch.setattr(queue._gathering._reader, "_may_read_all", 0.0)
    assert sorted(await known()) == ["again", "new", "old0", "old3"]


async def test_what_rented_machines_cost_counts_against_a_projects_quota(site: PoolSite):
    await site.set("quotas.vision.usd=5")
    queue = site.queue()
    costly = await site.submit("costly", project="vision", provider="runpod")
    row = {"USD": 4.5, "USD/h": 2.0, "outcome": "completed"}
    table = ArtifactCreate(
        key=MACHINES, type="table", data=json.dumps([row]), flow_run_id=uuid.UUID(costly)
    )
    made = await site.client.create_artifact(table)
    await site.set_state(costly, Running())
    next_one = await site.submit("next", project="vision", provider=["vast", "runpod"])

    assert of(await queue.decide(), StartJob) == [next_one]
    data = json.dumps([row, {**row, "USD": 0.5}])
    await site.client.update_artifact(made.id, ArtifactUpdate(data=data))
    await site.set_state(costly, Completed())
    assert reasons(await queue.decide()) == {next_one: "project vision has spent its 5 USD"}


async def test_who_had_gpus_is_known_from_prefects_runs(site: PoolSite):
    await site.set("strategy=fair_share")
    had = await site.submit("had", user="heavy")
    now = time.time()
    given = Allotment(machine="host", gpus=("GPU-0",), since=now, place=now)
    await site.client.update_flow_run_labels(uuid.UUID(had), given.labels())
    await site.set_state(had, Running())
    await site.set_state(had, Completed())
    heavy = await site.submit("of-heavy", user="heavy", resources={"gpu_count": 2})
    light = await site.submit("of-light", user="light", resources={"gpu_count": 2})

    made = await site.queue(HOST).decide()
    assert (of(made, StartJob), list(reasons(made))) == ([light], [heavy])
