"""The client and the service that is shipped fit together: by the description, and by a real job."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from gateway.client import (
    ArtifactInfo,
    AsyncTrainingOrchestrator,
    TrainingConfig,
    TrainingJob,
    TrainingOrchestrator,
    TrainingState,
)
from gateway.rest.application import create_app
from gateway.rest.settings import service_settings
from tests.gateway.commanding import job_values

JOB = "/api/training/jobs/{job_id}"
OPERATIONS = {
    "create_job": ("post", "/api/training/jobs"),
    "start_training": ("post", f"{JOB}/submit"),
    "get_status": ("get", f"{JOB}/status"),
    "list_jobs": ("get", "/api/training/jobs"),
    "cancel": ("post", f"{JOB}/cancel"),
    "pause": ("post", f"{JOB}/pause"),
    "resume": ("post", f"{JOB}/resume"),
    "download_artifact": ("post", f"{JOB}/download-artifact"),
    "logs": ("get", f"{JOB}/logs"),
    "errors": ("get", f"{JOB}/errors"),
    "metrics": ("get", "/api/training/local/{job_id}/metrics"),
    "events": ("get", f"{JOB}/events"),
}
OWN = {"wait", "close"}
"""Methods that are no operation."""


@pytest.fixture(scope="module")
def described() -> dict[str, Any]:
    return create_app(service_settings()).openapi()


def fields(described: dict[str, Any], schema: dict[str, Any]) -> set[str]:
    while "$ref" in schema:
        schema = described["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return set(schema["properties"])


def test_every_operation_on_jobs_has_a_method_and_every_method_an_operation(described):
    methods = {
        name
        for name, _ in inspect.getmembers(AsyncTrainingOrchestrator, inspect.isfunction)
        if not name.startswith("_")
    }
    of_jobs = {
        (verb, path)
        for path, verbs in described["paths"].items()
        for verb in verbs
        if path.startswith("/api/training/jobs")
    }

    assert methods - OWN == set(OPERATIONS)
    assert of_jobs <= set(OPERATIONS.values())
    for verb, path in OPERATIONS.values():
        assert verb in described["paths"][path], (verb, path)


def answer_of(described: dict[str, Any], name: str) -> dict[str, Any]:
    verb, path = OPERATIONS[name]
    answers = described["paths"][path][verb]["responses"]
    return answers["201" if "201" in answers else "200"]["content"]["application/json"]["schema"]


def test_every_field_that_is_sent_is_one_that_is_taken(described):
    verb, path = OPERATIONS["create_job"]
    body = described["paths"][path][verb]["requestBody"]["content"]["application/json"]["schema"]

    assert set(TrainingConfig.__dataclass_fields__) == fields(described, body)


def test_every_field_that_is_read_is_one_that_comes(described):
    ours = {"config"}  # of what was asked
    for name in ("create_job", "get_status", "start_training", "cancel", "pause", "resume"):
        comes = fields(described, answer_of(described, name))
        assert set(TrainingJob.__dataclass_fields__) - ours == comes, name
    artifact = fields(described, answer_of(described, "download_artifact"))
    assert set(ArtifactInfo.__dataclass_fields__) == artifact
    assert {"jobs", "total", "cursor"} <= fields(described, answer_of(described, "list_jobs"))
    assert {"logs", "next"} <= fields(described, answer_of(described, "logs"))
    assert {"errors"} <= fields(described, answer_of(described, "errors"))
    assert {"metrics"} <= fields(described, answer_of(described, "metrics"))


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("list_jobs", {"provider", "state", "limit", "cursor"}),
        ("logs", {"after", "limit"}),
        ("metrics", {"after"}),
    ],
)
def test_every_parameter_is_known(described, name, wanted):
    verb, path = OPERATIONS[name]
    known = {each["name"] for each in described["paths"][path][verb]["parameters"]}

    assert wanted <= known


@pytest.mark.usefixtures("prefect_api")
async def test_without_a_service_jobs_are_made_listed_and_cancelled_in_this_process(home):
    config = TrainingConfig(job_id="of-localhost", job=job_values())
    with TrainingOrchestrator() as orchestrator:
        made = orchestrator.create_job(config)
        listed = orchestrator.list_jobs(state=TrainingState.CREATED, limit=200)
        stopped = orchestrator.cancel("of-localhost")

    assert made.state is TrainingState.CREATED
    assert made.config["job"]["name"] == "by-hand"
    assert "of-localhost" in [job.job_id for job in listed]
    assert stopped.state is TrainingState.STOPPED
