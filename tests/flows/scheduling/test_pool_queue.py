"""A pool's queue on a real Prefect server: what waits is read, decided about, and told why it waits."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
from prefect import get_client
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.states import Scheduled

from flows.scheduling.labels import GPUS, MACHINE, of_submit
from flows.scheduling.pool import PoolGpu, PoolMachine, StartJob
from flows.scheduling.pool_queue import PoolQueue
from flows.scheduling.reasons import QUEUED

HOST = PoolMachine(
    name="host",
    gpus=tuple(PoolGpu(uuid=f"GPU-{n}", vram_gb=24.0, kind="NVIDIA L4", index=n) for n in range(2)),
)


class Site:
    """A pool with a deployment."""

    def __init__(self, client: PrefectClient, pool: str, deployment: uuid.UUID) -> None:
        self.client, self.pool, self.deployment = client, pool, deployment

    def queue(self, machine: PoolMachine = HOST) -> PoolQueue:
        return PoolQueue(self.client, self.pool, lambda: machine)

    async def submit(self, name: str, *, state: Any = None, **job: Any) -> str:
        run: FlowRun = await self.client.create_flow_run_from_deployment(
            self.deployment,
            name=name,
            parameters={"job": {"name": name, **job}} if job.pop("is_job", True) else {},
            state=state or Scheduled(),
            work_queue_name=job.pop("queue", "default"),
            labels=of_submit(user="ada"),
        )
        return str(run.id)

    async def run(self, id: str) -> FlowRun:
        return await self.client.read_flow_run(uuid.UUID(id))


@pytest.fixture
async def site(prefect_api: str) -> AsyncIterator[Site]:
    async with get_client() as client:
        pool = f"pool-{uuid.uuid4().hex[:8]}"
        await client.create_work_pool(WorkPoolCreate(name=pool, type="process"))
        flow = await client.create_flow_from_name("train")
        made = await client.create_deployment(flow, pool, work_pool_name=pool)
        yield Site(client, pool, made)


def one(decisions: list[Any], kind: type) -> list[str]:
    return [each.job for each in decisions if isinstance(each, kind)]


async def test_what_fits_starts_and_the_rest_is_told_why_it_waits(site: Site):
    first, both, last = [
        await site.submit(name, resources=asked)
        for name, asked in (("a", {}), ("b", {"gpu_count": 2}), ("c", {"gpu_types": ["l4"]}))
    ]
    queue = site.queue()

    made = await queue.decide()
    assert one(made, StartJob) == [first, last]
    for each in made:
        if isinstance(each, StartJob):
            await queue.take(each)
    await queue.tell(made)

    state = (await site.run(both)).state
    assert state is not None
    assert (state.type, state.name) == (StateType.SCHEDULED, QUEUED)
    assert state.message is not None
    assert state.message.startswith("is next, and will have 2 GPUs of one machine in ")
    labels = (await site.run(first)).labels
    assert (labels[MACHINE], labels[GPUS]) == ("host", "GPU-0")
    # What was started is not started again, although Prefect still shows it as waiting.
    assert one(await queue.decide(), StartJob) == []
    queue.left(first)
    queue.left(last)
