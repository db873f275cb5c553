"""A pool of two pretended GPUs on the tests' Prefect server, with a deployment."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from prefect import get_client
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import FlowRun, State
from prefect.states import Scheduled

from flows.scheduling.labels import of_submit
from flows.scheduling.pool import PoolGpu, PoolMachine
from flows.scheduling.pool_queue import PoolQueue
from flows.scheduling.settings import assignments, changed, variable_of
from flows.variables import write_variable

HOST = PoolMachine(
    name="host",
    gpus=tuple(PoolGpu(uuid=f"GPU-{n}", vram_gb=24.0, kind="NVIDIA L4", index=n) for n in range(2)),
)


class PoolSite:
    """A pool with a deployment."""

    def __init__(self, client: PrefectClient, pool: str, deployment: uuid.UUID) -> None:
        self.client, self.pool, self.deployment = client, pool, deployment
        self._settings: dict[str, Any] = {}

    def queue(self, machine: PoolMachine = HOST, **more: Any) -> PoolQueue:
        async def look(given: Mapping[str, Collection[str]]) -> PoolMachine:
            return machine

        return PoolQueue(self.client, self.pool, look, **more)

    async def submit(
        self,
        name: str,
        *,
        state: State[Any] | None = None,
        queue: str = "default",
        labels: dict[str, Any] | None = None,
        tags: Sequence[str] = (),
        **job: Any,
    ) -> str:
        """Submit a job of these fields; without a training, which the queue does not look at."""
        run = await self.client.create_flow_run_from_deployment(
            self.deployment,
            name=name,
            parameters={"job": {"name": name, **job}},
            state=state or Scheduled(),
            work_queue_name=queue,
            labels=of_submit(user=job.pop("user", "ada")) | (labels or {}),
            tags=tags,
        )
        return str(run.id)

    async def run(self, id: str) -> FlowRun:
        return await self.client.read_flow_run(uuid.UUID(id))

    async def set_state(self, id: str, state: State[Any]) -> None:
        await self.client.set_flow_run_state(uuid.UUID(id), state, force=True)

    async def set(self, *given: str) -> None:
        """Change settings of the pool."""
        self._settings = changed(self._settings, assignments(given), self.pool)
        await write_variable(self.client, variable_of(self.pool), self._settings)


@asynccontextmanager
async def pool_site() -> AsyncIterator[PoolSite]:
    """Make a pool of a name of its own."""
    async with get_client() as client:
        pool = f"pool-{uuid.uuid4().hex[:8]}"
        await client.create_work_pool(WorkPoolCreate(name=pool, type="process"))
        flow = await client.create_flow_from_name("train")
        made = await client.create_deployment(flow, pool, work_pool_name=pool)
        yield PoolSite(client, pool, made)
