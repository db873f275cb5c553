"""What rented machines will have cost, against the caps of jobs and projects."""

from __future__ import annotations

import json

import pytest

from blocks.models import Offer
from flows.renting.journal import Journal
from flows.run_folder import RunFolder
from flows.scheduling.settings import variable_of
from gateway.prefect.client import LightClient, connected
from gateway.spending import costs, forecasts, quotas

OFFER = Offer(id="1", provider="runpod", instance_type="L4", region="EU", price_per_hour=2.0)


@pytest.fixture
def client(prefect_api: str) -> LightClient:
    return connected()


def rented(client: LightClient, name: str, *, hours: float, is_open: bool, **asked: object) -> str:
    """Create a job that has had a machine for some hours."""
    run = client.create_run(name, {"job": {"name": name, **asked}})
    journal = Journal.of(RunFolder(run))
    hire = journal.begin(OFFER, "runpod")
    hire.instance_id, hire.metered_seconds = f"pod-{name}", hours * 3600
    journal.save() if is_open else journal.end(hire, "completed")
    return str(run)


def test_a_job_is_forecast_by_its_price_and_its_time_left(client: LightClient):
    rented(client, "over", hours=1, is_open=False)
    id = rented(client, "now", hours=1, is_open=True, limits={"max_cost": 3.0})
    step = {"step": 1, "total_steps": 2, "eta_seconds": 3600.0}
    flow = {"key": "training-metrics", "type": "table", "flow_run_id": id}
    client.ask_anything("POST", "artifacts/", {**flow, "data": json.dumps([step])})

    [found] = forecasts(client)

    assert found.id == id
    assert found.spent == pytest.approx(2, rel=0.01)
    assert found.expected == pytest.approx(4, rel=0.01)
    assert (found.cap, found.is_over) == (3.0, True)


def test_projects_are_counted_together_and_held_against_their_quota(client: LightClient):
    rented(client, "a", hours=1, is_open=False, project="vision")
    rented(client, "b", hours=2, is_open=False, project="vision")
    rented(client, "c", hours=4, is_open=False)
    pool = {"name": "spending-pool", "type": "training"}
    client.ask_anything("POST", "work_pools/", pool)
    value = {"quotas": {"vision": {"usd": 5}}}
    name = variable_of("spending-pool")
    client.ask_anything("POST", "variables/", {"name": name, "value": value})

    rows = {row["project"]: round(row["usd"]) for row in costs(lambda: client, "project")}
    [quota] = [one for one in quotas(client, []) if "spending-pool" in one.name]

    assert rows == {"vision": 6, "(none)": 8}
    assert (round(quota.spent), quota.cap, quota.is_over) == (6, 5.0, True)
