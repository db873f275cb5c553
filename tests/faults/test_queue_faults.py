"""What may go wrong around the queue of a pool, on a real Prefect server."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from flows.asking import asking
from flows.scheduling import administration
from flows.scheduling.administration import Administration
from flows.scheduling.pool import StartJob
from flows.scheduling.settings import variable_of
from flows.variables import write_variable
from tests.flows.scheduling.pool_site import PoolSite, pool_site


@pytest.fixture
async def site(prefect_api: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[PoolSite]:
    monkeypatch.setattr(administration, "AGAIN_SECONDS", 0.0)
    async with pool_site() as made:
        yield made


def started(made: list[Any]) -> list[tuple[str, tuple[str, ...]]]:
    return [(one.job, one.gpus) for one in made if isinstance(one, StartJob)]


@pytest.mark.thorough
@pytest.mark.fault(125, "worker gone between GPU and start")
async def test_a_run_that_got_gpus_and_was_never_started_waits_as_before(site: PoolSite):
    job = await site.submit("job", resources={"gpu_count": 2})
    dead = site.queue()
    [start] = [one for one in await dead.decide() if isinstance(one, StartJob)]
    await dead.take(start)  # and here it is killed
    before = await site.run(job)

    [again] = started(await site.queue().decide())

    assert again == (job, ("GPU-0", "GPU-1"))
    assert before.next_scheduled_start_time == (await site.run(job)).next_scheduled_start_time


@pytest.mark.thorough
@pytest.mark.fault(126, "nonsense in a pool's settings")
@pytest.mark.parametrize("value", ["fifo", {"gpus": "all"}, {"max_concurrent_jobs": -1}, 7])
async def test_nonsense_in_a_pools_settings_leaves_those_before_in_force(
    site: PoolSite, value: Any
):
    await site.set("max_concurrent_jobs=1")
    queue = site.queue()
    await queue.decide()
    await write_variable(site.client, variable_of(site.pool), value)
    jobs = [await site.submit(f"job{n}") for n in range(2)]

    assert [id for id, _ in started(await queue.decide())] == jobs[:1]
    assert queue.settings.max_concurrent_jobs == 1
    rules = await Administration(asking(site.client), site.pool).read()
    assert f"settings of pool {site.pool}" in rules.mistake


@pytest.mark.thorough
@pytest.mark.fault(127, "worker's clock an hour off, and set right")
@pytest.mark.parametrize("off", [-3600.0, 3600.0])
async def test_a_wrong_clock_of_the_worker_keeps_no_job_waiting(site: PoolSite, off: float):
    wrong = [off]
    queue = site.queue(clock=lambda: time.time() + wrong[0])
    await queue.decide()  # by which the server's clock is known
    first = await site.submit("first")
    made = await queue.decide()
    assert [id for id, _ in started(made)] == [first]
    for one in made:
        if isinstance(one, StartJob):
            given = await queue.take(one)
            assert abs(given.since - time.time()) < 600
    # It is set right while the worker runs.
    wrong[0] = 0.0
    second = await site.submit("second")
    queue._announcer._at = -1e9  # half a minute later
    await queue.decide()
    assert [id for id, _ in started(await queue.decide())] == [second]
