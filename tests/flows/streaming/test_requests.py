"""A cancellation breaks off a phase, unless a training in it hears by itself."""

from __future__ import annotations

import asyncio

import pytest
from prefect import get_client
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import State, StateType

from flows import outcome, wanted
from flows.execute import create_run
from flows.run_folder import RunFolder
from flows.streaming import requests
from flows.streaming.requests import CancelAsked, heard
from tests.flows.flow_runs import make_job
from tests.waiting import until

pytestmark = pytest.mark.usefixtures("prefect_api")


@pytest.fixture
async def run(monkeypatch):
    found = await create_run(make_job())
    monkeypatch.setattr(requests, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(wanted, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(outcome, "this_run_id", lambda: found.id)
    return RunFolder(found.id)


@pytest.fixture
def reads(monkeypatch):
    """Collect each question for what is wanted of runs."""
    found = []
    real = PrefectClient.read_flow_runs

    async def counted(self, **filters):
        found.append(filters["flow_run_filter"].id.any_)
        return await real(self, **filters)

    monkeypatch.setattr(PrefectClient, "read_flow_runs", counted)
    return found


async def cancel(run: RunFolder) -> None:
    async with get_client() as client:
        state = State(type=StateType.CANCELLING, name="Cancelling")
        await client.set_flow_run_state(run.run_id, state, force=True)


async def test_a_cancellation_breaks_off_what_goes_on(run):
    async def phase() -> None:
        async with heard(make_job(), run):
            await cancel(run)
            await asyncio.Event().wait()

    with pytest.raises(CancelAsked):
        await phase()


async def test_prefect_is_not_asked_twice_while_the_training_hears_by_itself(run, reads):
    async def phase() -> None:
        async with heard(make_job(), run) as hearing:
            await until(lambda: len(reads) > 2)
            hearing.training_hears = True
            asked = len(reads)  # each is counted as it begins
            await cancel(run)
            await asyncio.sleep(10 * requests.POLL_SECONDS)
            assert len(reads) == asked
            hearing.training_hears = False
            await asyncio.Event().wait()

    with pytest.raises(CancelAsked):
        await phase()
