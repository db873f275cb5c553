"""A job's state is shown as the name of its run's state, and overwrites nothing that was asked."""

from __future__ import annotations

from typing import Any

import pytest
from prefect import get_client
from prefect.states import Cancelled, Cancelling, Running

from flows import announcing
from flows.execute import create_run
from tests.flows.flow_runs import make_job
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
