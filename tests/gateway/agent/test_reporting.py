"""What an agent tells its backend, of a run that Prefect really has."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from prefect import flow, get_client
from prefect.states import Completed, Failed, Running

from flows.run_folder import RunFolder
from flows.shown import TRAINS
from gateway.agent.links import Links
from gateway.agent.reporting import Backend, BackendReporter, jobs_folder
from tests.gateway.agent.backend import TOKEN, PretendedBackend
from tests.waiting import until


@flow(name="train")
def train():
    """Stands for the training flow: nothing of it runs here."""


@pytest.fixture
def backend():
    made = PretendedBackend().start()
    yield made
    made.stop()


@pytest.fixture
async def run(prefect_api):
    async with get_client() as client:
        return RunFolder((await client.create_flow_run(train)).id)


async def set_state(run, state):
    async with get_client() as client:
        await client.set_flow_run_state(run.run_id, state, force=True)


@asynccontextmanager
async def reporting(url: str, links: Links | None = None) -> AsyncIterator[None]:
    async with get_client() as client:
        task = asyncio.create_task(BackendReporter(url, client, links).run())
        yield
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def write(run, *steps):
    with run.metrics.open("a") as metrics, run.log.open("a") as lines:
        for step in steps:
            metrics.write(json.dumps({"step": step, "train_loss": 1 / step}) + "\n")
            lines.write(f"0%\rstep {step}\n")


async def test_a_backend_that_is_away_and_an_agent_that_ends_lose_nothing(run, backend, tmp_path):
    Backend(backend.url).reports_with(TOKEN)(run.run_id)
    links = Links(tmp_path / "checkpoints", tmp_path / "logs")
    backend.status = 503
    write(run, 1, 2)
    await set_state(run, Running(message=TRAINS))
    async with reporting(backend.url, links):
        await until(lambda: backend.refused)
    backend.status = 200
    async with reporting(backend.url, links):
        await until(lambda: "running" in backend.statuses and 1 in backend.steps)
    write(run, 3)
    await set_state(run, Completed())
    async with reporting(backend.url, links):
        await until(lambda: not (jobs_folder() / run.run_id).exists())

    assert backend.steps == [1, 2, 3]
    assert backend.lines == ["step 1", "step 2", "step 3"]
    assert backend.statuses[-2:] == ["running", "completed"]
    assert backend.took[-1][1] == "status", "the end comes last"
    assert backend.tokens == {f"Bearer {TOKEN}"}
    assert backend.paths == {f"/api/training/local/{run.run_id}"}
    assert (tmp_path / "logs" / f"{run.run_id}.log").read_text() == run.log.read_text()


async def test_a_failed_job_stays_noted_for_it_may_be_resumed(run, backend):
    Backend(backend.url).reports_with(TOKEN)(run.run_id)
    await set_state(run, Failed(message="Memory ran out."))
    async with reporting(backend.url):
        await until(lambda: "failed" in backend.statuses)
        await set_state(run, Running(message=TRAINS))
        await until(lambda: backend.statuses[-1] == "running")

    assert {"status": "failed", "message": "Memory ran out."} in [b for *_, b in backend.took]
    assert (jobs_folder() / run.run_id).stat().st_mode & 0o077 == 0
