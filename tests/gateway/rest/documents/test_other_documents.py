"""Documents 001, 003 and 004, by the letter, over a real Prefect server."""

from __future__ import annotations

import uuid
from typing import Any

import httpx
import pytest

START = {
    "endpoint_id": "endpoint_uuid",
    "version": 1,
    "training_pairs_count": 100,
    "slm_type": "microsoft/DialoGPT-small",
    "source_llm": "gpt-3.5-turbo",
    "provider": "runpod",
}


def asked(**more: Any) -> dict[str, Any]:
    return {"model_name": "/models/m", "dataset_path": "/data/d.jsonl"} | more


def chosen() -> str:
    return f"job-{uuid.uuid4().hex[:8]}"


@pytest.fixture
async def job(service: httpx.AsyncClient) -> str:
    """A job that was created."""
    answer = await service.post("/api/training/jobs", json=asked(job_id=chosen()))
    return str(answer.json()["job_id"])


async def test_an_agent_is_given_a_job_and_controls_it(deployed):
    job_id = chosen()

    executed = await deployed.post("/api/training/execute", json=asked(job_id=job_id))
    status = (await deployed.get(f"/api/training/status/{job_id}")).json()
    paused = await deployed.post(f"/api/training/pause/{job_id}")
    resumed = await deployed.post(f"/api/training/resume/{job_id}")
    logs = (await deployed.get(f"/api/training/logs/{job_id}")).json()
    cancelled = await deployed.post(f"/api/training/cancel/{job_id}")

    assert (executed.status_code, executed.json()["job_id"]) == (201, job_id)
    assert (status["status"], status["provider"]) == ("created", "local")
    assert (paused.status_code, resumed.status_code) == (400, 400)  # it waits
    assert logs["logs"] == []
    assert (cancelled.status_code, cancelled.json()["status"]) == (200, "stopped")


async def test_runpod_is_where_a_job_is_deployed_that_says_nothing_else(deployed):
    key = {"Idempotency-Key": uuid.uuid4().hex}

    first = await deployed.post("/api/training/deploy/runpod", json=asked(), headers=key)
    again = await deployed.post("/api/training/deploy/runpod", json=asked(), headers=key)

    assert (first.status_code, again.status_code) == (201, 200)
    job_id = first.json()["job_id"]
    assert again.json()["job_id"] == job_id
    assert (await deployed.get(f"/api/training/jobs/{job_id}/status")).json()[
        "provider"
    ] == "runpod"


async def test_a_training_service_starts_and_cancels(deployed, monkeypatch):
    train_id = chosen()
    body = {"train_id": train_id, **START}

    without = await deployed.post("/api/v1/training/start", json=body)
    started = await deployed.post(
        "/api/v1/training/start", json=body | {"dataset_path": "/pairs/1.jsonl"}
    )
    early = await deployed.post(f"/api/v1/training/{train_id}/completed")
    cancelled = await deployed.post(f"/api/v1/training/{train_id}/cancel")

    assert (without.status_code, "TRAINING_ORCHESTRATOR_PAIRS" in without.text) == (400, True)
    assert (started.status_code, started.json()["train_id"]) == (201, train_id)
    assert started.json()["provider"] == "runpod"
    assert early.status_code == 409
    assert (cancelled.status_code, cancelled.json()["status"]) == (200, "stopped")
    missing = await deployed.get("/api/v1/training/none/status")
    assert (missing.status_code, missing.json()["job_id"]) == (404, "none")


async def test_what_is_trained_elsewhere_is_completed_by_word(service, job):
    answer = await service.post(f"/api/v1/training/{job}/completed")

    assert (answer.status_code, answer.json()["status"]) == (200, "completed")


async def test_metrics_are_stored_once_and_given_back(service, job):
    record = {"step": 100, "epoch": 1, "train_loss": 0.45, "gpu_utilization_percent": 97.5}
    body = {"job_id": job, "metrics": [record | {"timestamp": "2025-12-19T10:30:00.000Z"}]}

    first = await service.post("/api/training/local/metrics", json=body)
    again = await service.post("/api/training/local/metrics", json=body)
    other = await service.put(
        f"/api/training/local/{job}/metrics", json={"metrics": [{"step": 110, "train_loss": 0.4}]}
    )
    found = (await service.get(f"/api/training/local/{job}/metrics")).json()
    later = (await service.get(f"/api/training/local/{job}/metrics", params={"after": 100})).json()

    assert [one.status_code for one in (first, again, other)] == [200, 200, 200]
    assert [one["step"] for one in found["metrics"]] == [100, 110]
    assert found["metrics"][0]["train_loss"] == pytest.approx(0.45)
    assert [one["step"] for one in later["metrics"]] == [110]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"job_id": "nobody", "metrics": [{"step": 1}]}, 404),
        ({"job_id": "JOB", "metrics": [{"step": -1}]}, 422),
        ({"job_id": "JOB", "metrics": [{"step": 1}] * 1001}, 422),
        ({"metrics": []}, 422),
    ],
)
async def test_metrics_that_cannot_be_are_refused(service, job, body, status):
    given = body | ({"job_id": job} if body.get("job_id") == "JOB" else {})

    assert (await service.post("/api/training/local/metrics", json=given)).status_code == status


async def test_what_an_agent_reports_is_taken(service, job):
    status = await service.patch(f"/api/training/local/{job}/status", json={"status": "running"})
    lines = await service.post(f"/api/training/local/{job}/logs", json={"logs": ["step 1"]})
    wrong = await service.patch(f"/api/training/local/{job}/status", json={"status": "well"})

    assert (status.status_code, lines.json()["received"], wrong.status_code) == (200, 1, 422)
    # What it says of itself is no state of the job.
    assert (await service.get(f"/api/training/jobs/{job}/status")).json()["state"] == "created"


async def test_an_alert_is_taken_and_nonsense_is_not(service, home):
    alert = {"type": "job_failed", "job_id": "uuid", "user_id": "uuid", "error_type": "CUDA_OOM"}

    assert (await service.post("/api/alerts/trigger", json=alert)).json()["told"] == 0
    wrong = await service.post("/api/alerts/trigger", json=alert | {"type": "job_exploded"})
    assert wrong.status_code == 422
