"""What Prometheus scrapes, and the dashboard that draws it."""

from __future__ import annotations

import json
import re
import uuid
from pathlib import Path

import httpx
import pytest
from prefect import flow, get_client
from prefect.states import Scheduled
from prometheus_client.parser import text_string_to_metric_families

from flows.run_folder import RunFolder
from gateway.observation import routes
from gateway.observation.usage import UsageOfAll
from gateway.rest.application import create_app
from gateway.rest.settings import ServiceSettings
from trainer.contract.files import replace_json

DASHBOARD = Path(__file__).parents[3] / "examples" / "grafana" / "training-orchestrator.json"
NAME = re.compile(r"training_orchestrator_\w+")


@pytest.fixture
async def service(prefect_api, monkeypatch):
    monkeypatch.setattr(routes, "AGAIN_SECONDS", 0.0)
    app = create_app(ServiceSettings())
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://localhost"
        ) as client,
    ):
        client.app = app
        yield client


async def scraped(service):
    answer = await service.get("/metrics")
    assert answer.status_code == 200
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


@flow(name="train")
def train():
    """Stands for the training flow."""


async def test_jobs_queue_points_and_streams(service):
    before = await scraped(service)
    async with get_client() as client:
        await client.create_flow_run(train, state=Scheduled(name="Queued"))
    await service.app.state.metrics.append("job", [{"step": 1, "a": 1.0, "b": 2.0}])

    now = await scraped(service)

    def grown(*name):
        return now[name] - before.get(name, 0.0)

    assert now["training_orchestrator_prefect_up",] == 1
    # Not how many more: other tests' jobs leave the same server's queue meanwhile.
    assert now["training_orchestrator_jobs", "created"] >= 1
    assert now["training_orchestrator_queue_jobs", ""] >= 1
    assert now["training_orchestrator_queue_wait_seconds", ""] >= 0
    assert grown("training_orchestrator_metric_points_total") == 2
    assert now["training_orchestrator_stream_clients",] == 0


async def test_without_prefect_its_figures_are_left_out(service, monkeypatch):
    async def away(ask):
        raise httpx.ConnectError("away")

    monkeypatch.setattr(routes, "read_queues", away)

    now = await scraped(service)

    assert now["training_orchestrator_prefect_up",] == 0
    assert not [
        name
        for name, *_ in now
        if name.endswith(("_jobs", "_wait_seconds")) and "stream" not in name
    ]


async def test_every_expression_of_the_dashboard_names_what_there_is(service):
    async with get_client() as client:
        await client.create_flow_run(train, state=Scheduled(name="Queued"))
    there = {name for name, *_ in await scraped(service)}
    dashboard = json.loads(DASHBOARD.read_text())
    drawn = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]

    named = {name for expression in drawn for name in NAME.findall(expression)}

    assert all(NAME.search(expression) for expression in drawn)
    assert named <= there
    # And nothing is measured that nobody sees.
    assert there - named == set()
    states = {
        label for name, *labels in await scraped(service) for label in labels if "jobs" in name
    }
    wanted = {
        s for e in drawn for group in re.findall(r'state=~"([^"]+)"', e) for s in group.split("|")
    }
    assert wanted <= states


def test_what_jobs_used_is_read_again_only_where_it_changed(home, monkeypatch):
    run = RunFolder(uuid.uuid4())
    replace_json(run.root / "job-events.json", {})
    usage = UsageOfAll()
    assert usage.total() == (0.0, 0.0)
    read = []
    monkeypatch.setattr("gateway.observation.usage._usage", lambda run, changed: read.append(run))

    usage.total()
    assert read == []
