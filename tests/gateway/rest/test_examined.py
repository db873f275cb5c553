"""What is wrong with a job is said when it is created, and not when its turn has come."""

from __future__ import annotations

import pytest

from tests.gateway.commanding import job_values

JOBS = "/api/training/jobs"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("rows.jsonl", '{"messages": 7}\n', ["rows.jsonl"]),
        ("rows.xyz", "text", ["rows.xyz", "Convert the file"]),
        ("empty.jsonl", "", ["empty.jsonl"]),
    ],
)
async def test_data_that_is_here_and_cannot_be_trained_is_refused(
    service, tmp_path, name, content, words
):
    path = tmp_path / name
    path.write_text(content)
    job = job_values(dataset={"path": str(path)})

    answer = await service.post(JOBS, json={"job_id": name, "job": job})

    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"
    assert all(word in answer.json()["detail"] for word in words), answer.json()["detail"]
    assert (await service.get(f"{JOBS}/{name}/status")).status_code == 404


async def test_data_that_only_the_worker_has_is_left_to_it(service):
    job = job_values(dataset={"path": "/nowhere/here.jsonl"})

    assert (await service.post(JOBS, json={"job": job})).status_code == 201


async def test_a_place_that_cannot_be_is_refused_when_the_job_is_submitted(deployed):
    await deployed.post(JOBS, json={"job_id": "placeless", "job": job_values()})

    answer = await deployed.post(f"{JOBS}/placeless/submit", json={"provider": ["runpod", "moon"]})

    assert answer.status_code == 400
    assert "moon" in answer.json()["detail"]
    assert (await deployed.get(f"{JOBS}/placeless/status")).json()["state"] == "created"
