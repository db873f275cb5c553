"""A job's state is shown as the name of its run's state, and overwrites nothing that was asked."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from typing import Any
from uuid import UUID, uuid4

import pytest
from prefect import get_client
from prefect.client.orchestration import PrefectClient
from prefect.states import Cancelled, Cancelling, Running

from flows import announcing
from flows.execute import create_run
from flows.shown import TRAINS
from flows.wanted import FEW, bell_of
from tests.flows.flow_runs import make_job
from tests.waiting import until
from trainer.contract.job_directory import JobState

pytestmark = pytest.mark.usefixtures("home", "prefect_api")


@pytest.mark.parametrize("asked", [Cancelled, Cancelling])
@pytest.mark.parametrize("when", ["before", "between reading and writing"])
async def test_a_run_that_was_cancelled_stays_cancelled(asked, when, monkeypatch):
    run = await create_run(make_job())
    async with get_client() as client:
        await client.set_flow_run_state(run.id, Running(), force=True)
        read = client.read_flow_run

        async def cancel_after_reading(*words: Any) -> Any:
            found = await read(*words)
            await client.set_flow_run_state(run.id, asked(message="as asked"), force=True)
            return found

        if when == "before":
            await cancel_after_reading(run.id)
        else:
            monkeypatch.setattr(client, "read_flow_run", cancel_after_reading)
        await announcing._announce(client, run.id, JobState.INITIALIZING)

        state = (await read(run.id)).state
        assert (state.type, state.message) == (asked().type, "as asked")


async def test_the_state_of_a_job_is_shown():
    run = await create_run(make_job())
    async with get_client() as client:
        await client.set_flow_run_state(run.id, Running(), force=True)
        await announcing._announce(client, run.id, JobState.INITIALIZING)
        assert (await client.read_flow_run(run.id)).state.name == "Initializing"


async def test_of_many_that_begin_at_once_only_how_they_go_on_is_shown(monkeypatch):
    run = await create_run(make_job())
    monkeypatch.setattr(announcing, "this_run_id", lambda: run.id)
    monkeypatch.setattr(announcing, "CROWDED_SECONDS", announcing.SHOWN_SECONDS + 0.2)
    async with get_client() as client:
        await client.set_flow_run_state(run.id, Running(), force=True)
        with ExitStack() as others:
            for _ in range(2 * FEW):
                others.enter_context(bell_of(uuid4()))
            async with announcing.announcing():
                announcing.announce(JobState.INITIALIZING)
                await asyncio.sleep(0)
                announcing.announce(JobState.RUNNING)
                await until(lambda: _is_named(client, run.id, "Running", TRAINS))
        states = await client.read_flow_run_states(run.id)
    assert "Initializing" not in {state.name for state in states}


async def _is_named(client: PrefectClient, run_id: UUID, name: str, message: str | None) -> bool:
    state = (await client.read_flow_run(run_id)).state
    assert state
    return (state.name, state.message) == (name, message)
