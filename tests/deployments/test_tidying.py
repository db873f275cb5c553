"""Runs of reconcile that say nothing go; the others stay."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from prefect import get_client
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId
from prefect.states import Cancelled, Completed, Failed, Running, Scheduled

from flows.tidying import ALL_WELL, forget_uneventful

LONG_AGO = datetime.now(UTC) - timedelta(hours=1)


@pytest.mark.usefixtures("prefect_api")
async def test_only_runs_that_found_all_well_or_never_began_are_forgotten(monkeypatch):
    monkeypatch.setattr("flows.tidying.SHOWN", timedelta(0))
    states = {
        "missed": Scheduled(scheduled_time=LONG_AGO),
        "to come": Scheduled(scheduled_time=datetime.now(UTC) + timedelta(hours=1)),
        "well": Completed(name=ALL_WELL),
        "skipped": Cancelled(),
        "put right": Completed(),
        "failed": Failed(),
        "at work": Running(),
    }
    async with get_client() as client:
        flow_id = await client.create_flow_from_name("tidied")
        deployment = await client.create_deployment(flow_id, "tidied")
        for name, state in states.items():
            due = state if state.is_scheduled() else Scheduled(scheduled_time=LONG_AGO)
            run = await client.create_flow_run_from_deployment(deployment, name=name, state=due)
            if state is not due:
                await client.set_flow_run_state(run.id, state, force=True)

        await forget_uneventful(client, str(deployment))

        only = DeploymentFilter(id=DeploymentFilterId(any_=[deployment]))
        left = await client.read_flow_runs(deployment_filter=only)
        await client.delete_deployment(deployment)

    assert {run.name for run in left} == {"to come", "put right", "failed", "at work"}
