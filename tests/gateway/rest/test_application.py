"""The application as a whole: its health, its errors, its description."""

from __future__ import annotations

import httpx
import pytest
from fastapi import FastAPI

from gateway.rest.settings import service_settings
from trainer.contract.errors import ConfigError


async def test_health_says_how_prefect_is_and_shows_the_gpus(
    service: httpx.AsyncClient, pretended_gpus
):
    answer = await service.get("/health")

    found = answer.json()
    assert (answer.status_code, found["status"], found["prefect"]) == (200, "healthy", "healthy")
    assert (found["gpu"]["count"], found["gpu"]["available"]) == (4, True)


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/nowhere", 404), ("DELETE", "/health", 405)]
)
async def test_errors_of_http_are_problems(
    service: httpx.AsyncClient, method: str, path: str, status: int
):
    answer = await service.request(method, path)

    problem = answer.json()
    assert answer.status_code == problem["status"] == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert problem["instance"] == path
    assert problem["error"] == problem["title"]
    assert path in problem["detail"]


async def test_the_description_is_openapi_3_1_and_has_the_body_of_errors(
    service: httpx.AsyncClient,
):
    described = (await service.get("/openapi.json")).json()

    assert described["openapi"].startswith("3.1")
    assert {"type", "title", "status", "detail", "instance", "error", "job_id"} == set(
        described["components"]["schemas"]["Problem"]["properties"]
    )


def test_a_wrong_setting_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TRAINING_ORCHESTRATOR_PORT", "many")

    with pytest.raises(ConfigError, match="TRAINING_ORCHESTRATOR_PORT = 'many'"):
        service_settings()


def test_the_application_is_found_by_its_name_whatever_was_imported_before():
    import gateway.rest.application
    from gateway.rest import app

    assert isinstance(app, FastAPI)
    assert gateway.rest.app is app
