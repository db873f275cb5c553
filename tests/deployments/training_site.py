"""A pool of the type `training` on the tests' Prefect server, and workers of it that can be killed."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from prefect import get_client
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import FlowRun, State, StateType

from deployments.training_worker import TrainingWorker
from flows.scheduling.labels import of_submit
from flows.train import train
from tests.flows.flow_runs import of_stand_in
from tests.stand_in import stand_in


class TrainingSite:
    """A pool with a deployment of the training."""

    def __init__(self, client: PrefectClient, pool: str, deployment: uuid.UUID) -> None:
        self.client, self.pool, self.deployment = client, pool, deployment

    async def submit(self, folder: Path, *words: object, **job: Any) -> uuid.UUID:
        """Submit a job of the stand-in; return its run's id.

        Args:
            folder: for its script.
            words: its arguments.
            job: fields of the job.
        """
        values = of_stand_in(stand_in(folder, *words)).model_dump(mode="json")
        run = await self.client.create_flow_run_from_deployment(
            self.deployment, parameters={"job": {**values, **job}}, labels=of_submit(user="ada")
        )
        return run.id

    async def run(self, id: uuid.UUID) -> FlowRun:
        return await self.client.read_flow_run(id)

    async def state(self, id: uuid.UUID) -> State[Any]:
        state = (await self.run(id)).state
        assert state
        return state

    async def is_named(self, id: uuid.UUID, *names: str) -> State[Any] | None:
        """Return a run's state if it has one of these names."""
        state = await self.state(id)
        return state if state.name in names else None

    async def set(self, id: uuid.UUID, type: StateType, name: str) -> None:
        await self.client.set_flow_run_state(id, State(type=type, name=name), force=True)

    @contextmanager
    def worker(
        self, log: Path, limit: int = 0, **environ: str
    ) -> Iterator[subprocess.Popen[bytes]]:
        """Start a worker's process; it is gone afterwards."""
        with log.open("ab") as stream:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-P", "-m", "deployments.serve_pool"),
                    *(self.pool, str(limit), str(os.getpid())),
                ],
                env={**os.environ, **environ},
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.wait()


@asynccontextmanager
async def training_site() -> AsyncIterator[TrainingSite]:
    """Make a pool of a name of its own."""
    async with get_client() as client:
        pool = f"gpus-{uuid.uuid4().hex[:8]}"
        template = TrainingWorker.get_default_base_job_template()
        await client.create_work_pool(
            WorkPoolCreate(name=pool, type=TrainingWorker.type, base_job_template=template)
        )
        flow = await client.create_flow(train)
        made = await client.create_deployment(
            flow, pool, work_pool_name=pool, entrypoint="flows.train.train"
        )
        yield TrainingSite(client, pool, made)


@asynccontextmanager
async def working(site: TrainingSite, limit: int) -> AsyncIterator[TrainingWorker]:
    """Let a worker take its turns in this process."""
    over = asyncio.Event()
    async with TrainingWorker(site.pool, limit=limit, create_pool_if_not_found=False) as worker:
        await worker.sync_with_backend()

        async def turns() -> None:
            while not over.is_set():
                await worker.get_and_submit_flow_runs()

        taking = asyncio.create_task(turns())
        yield worker
        over.set()
        await taking
