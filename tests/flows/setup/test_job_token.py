"""The token that a training of another program gets, from a service that is really there."""

from __future__ import annotations

import httpx
import pytest
from prefect import flow, get_client
from prefect.states import Completed

from flows.setup.job_token import reporting_variables
from gateway.access.keys import create_key
from gateway.rest.application import create_app
from gateway.rest.settings import ServiceSettings
from tests.flows.flow_runs import make_job, of_stand_in
from tests.gateway.streams.conftest import serving
from tests.stand_in import stand_in


@flow(name="train")
def train():
    """Stands for the training flow: nothing of it runs here."""


@pytest.fixture
async def service(prefect_api, monkeypatch):
    async with serving(create_app(ServiceSettings())) as made:
        monkeypatch.setenv("TRAINING_ORCHESTRATOR_URL", f"http://127.0.0.1:{made.port}/")
        yield made


async def run_of(state=None) -> str:
    async with get_client() as client:
        return str((await client.create_flow_run(train, state=state)).id)


async def test_it_reports_for_that_job_and_no_other(service, tmp_path, monkeypatch):
    key = await create_key(service.app.state.database, "worker", {"report"}, by="test")
    monkeypatch.setenv("TRAINING_ORCHESTRATOR_API_KEY", key)
    ours, other = await run_of(), await run_of()

    given = await reporting_variables(of_stand_in(stand_in(tmp_path)), ours)

    headers = {"Authorization": f"Bearer {given['JOB_TOKEN']}"}
    alert = {"type": "job_started", "user_id": given["USER_ID"]}
    async with httpx.AsyncClient(headers=headers) as client:
        taken, refused = [
            await client.post(
                given["METRICS_API_URL"], json={"job_id": id, "metrics": [{"step": 1}]}
            )
            for id in (given["JOB_ID"], other)
        ]
        told = await client.post(
            given["ALERT_API_URL"],
            json=alert | {"job_id": given["JOB_ID"]},
            headers={"X-API-Key": given["INTERNAL_API_KEY"]},
        )
    assert (taken.status_code, refused.status_code, told.status_code) == (200, 403, 200)
    assert key not in given.values()


async def test_a_job_that_is_over_or_a_service_that_is_away_costs_only_the_token(
    service, tmp_path, monkeypatch, caplog
):
    job = of_stand_in(stand_in(tmp_path))
    assert await reporting_variables(job, await run_of(Completed())) == {}
    monkeypatch.setenv("TRAINING_ORCHESTRATOR_URL", "http://127.0.0.1:1")
    assert await reporting_variables(job, await run_of()) == {}
    assert caplog.text.count("It trains all the same.") == 2


async def test_our_own_trainer_gets_none_and_the_users_own_platform_counts(
    service, tmp_path, monkeypatch
):
    assert await reporting_variables(make_job(), await run_of()) == {}
    monkeypatch.setenv("METRICS_API_URL", "https://platform.example/metrics")
    assert await reporting_variables(of_stand_in(stand_in(tmp_path)), await run_of()) == {}
