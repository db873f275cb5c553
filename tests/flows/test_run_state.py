"""A cancellation that comes between the reading of a run and the writing of its state is kept."""

from __future__ import annotations

from typing import Any

import pytest
from prefect import get_client
from prefect.client.orchestration import PrefectClient
from prefect.states import Cancelled, Cancelling, Failed, Paused, Pending, Running

from flows.execute import create_run, execute
from flows.run_state import force_state
from flows.saved import STOPPED
from tests.flows.flow_runs import make_job

pytestmark = pytest.mark.usefixtures("home", "prefect_api")


@pytest.mark.parametrize("asked", [Cancelled, Cancelling])
@pytest.mark.parametrize("ours", [Pending, Paused, Failed])
async def test_a_run_that_is_cancelled_before_our_writing_stays_cancelled(asked, ours):
    run = await create_run(make_job())
    async with get_client() as client:
        await client.set_flow_run_state(run.id, Running(), force=True)
        read = await client.read_flow_run(run.id)
        await client.set_flow_run_state(run.id, asked(message="as asked"), force=True)

        state = await force_state(client, read, ours())

        now = (await client.read_flow_run(run.id)).state
        assert state.type == now.type == asked().type
        assert now.message == "as asked"


@pytest.mark.parametrize("before", [Failed, Cancelled, Paused])
async def test_a_state_that_was_known_gives_way(before):
    run = await create_run(make_job())
    async with get_client() as client:
        await client.set_flow_run_state(run.id, Cancelling(), force=True)
        await client.set_flow_run_state(run.id, before(), force=True)

        await force_state(client, await client.read_flow_run(run.id), Pending())

        assert (await client.read_flow_run(run.id)).state.is_pending()


async def test_a_run_that_is_cancelled_as_it_is_executed_does_not_begin(monkeypatch):
    run = await create_run(make_job())
    read = PrefectClient.read_flow_run

    async def cancel_after_reading(client: PrefectClient, *words: Any) -> Any:
        found = await read(client, *words)
        monkeypatch.setattr(PrefectClient, "read_flow_run", read)
        await client.set_flow_run_state(run.id, Cancelling(), force=True)
        return found

    monkeypatch.setattr(PrefectClient, "read_flow_run", cancel_after_reading)

    ended = await execute(run.id)

    assert ended.is_cancelled()
    assert ended.message == "cancelled before it began"

    async with get_client() as client:
        names = [state.name for state in await client.read_flow_run_states(run.id)]
        assert "Running" not in names
        assert names[-2:] == ["Cancelling", STOPPED]
