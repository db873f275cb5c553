"""Document 000, by the letter, over a real Prefect server."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import pytest
from prefect import get_client

from flows.run_folder import RunFolder

JOBS = "/api/training/jobs"


def chosen() -> str:
    return f"my_job_{uuid.uuid4().hex[:8]}"


def asked(job_id: str | None = None, **more: Any) -> dict[str, Any]:
    body = {"model_name": "/models/llama-2-7b", "dataset_path": "/data/my_dataset.jsonl", **more}
    return body | ({"job_id": job_id} if job_id else {})


async def test_a_job_is_created_submitted_and_cancelled_under_the_id_that_was_chosen(deployed):
    job_id = chosen()

    created = await deployed.post(JOBS, json=asked(job_id, output_dir="/output"))
    assert (created.status_code, created.json()["state"]) == (201, "created")
    status = (await deployed.get(f"{JOBS}/{job_id}/status")).json()
    assert (status["job_id"], status["state"], status["provider"]) == (job_id, "created", "local")

    submitted = await deployed.post(f"{JOBS}/{job_id}/submit", json={"provider": "runpod"})
    again = await deployed.post(f"{JOBS}/{job_id}/submit", json={"provider": "runpod"})
    other = await deployed.post(f"{JOBS}/{job_id}/submit", json={"provider": "local"})
    assert (submitted.status_code, submitted.json()["provider"]) == (200, "runpod")
    assert again.json()["link"] == submitted.json()["link"]
    assert other.status_code == 400
    async with get_client() as client:
        run = await client.read_flow_run(uuid.UUID(submitted.json()["link"].rpartition("/")[2]))
    assert (run.work_pool_name, run.state.name) == ("cloud", "Queued")
    assert run.parameters["job"]["output_dir"] == "/output"
    assert run.parameters["job"]["training"]["model"] == "/models/llama-2-7b"

    cancelled = await deployed.post(f"{JOBS}/{job_id}/cancel")
    assert (cancelled.status_code, cancelled.json()["state"]) == (200, "stopped")
    assert cancelled.json()["completed_at"]
    assert (await deployed.post(f"{JOBS}/{job_id}/cancel")).status_code == 400


async def test_one_that_was_not_submitted_is_nobodys_and_can_be_cancelled(deployed):
    job_id = chosen()
    await deployed.post(JOBS, json=asked(job_id))

    for verb in ("pause", "resume", "download-artifact"):
        assert (await deployed.post(f"{JOBS}/{job_id}/{verb}")).status_code in {400, 404}, verb
    cancelled = await deployed.post(f"{JOBS}/{job_id}/cancel")

    assert cancelled.json()["state"] == "stopped"
    refused = await deployed.post(f"{JOBS}/{job_id}/submit", json={"provider": "local"})
    assert (refused.status_code, refused.json()["job_id"]) == (400, job_id)


@pytest.mark.parametrize("verb", ["submit", "cancel", "pause", "resume", "download-artifact"])
async def test_a_job_that_is_not_there_is_404_with_the_documents_body(service, verb):
    answer = await service.post(f"{JOBS}/nobody/{verb}")

    body = answer.json()
    assert (answer.status_code, body["error"], body["job_id"]) == (404, "Not Found", "nobody")
    assert "'nobody'" in body["detail"]


async def test_a_request_that_is_repeated_under_its_key_makes_one_job(service):
    key = {"Idempotency-Key": uuid.uuid4().hex}

    answers = await asyncio.gather(
        *(service.post(JOBS, json=asked(), headers=key) for _ in range(3))
    )
    other = await service.post(JOBS, json=asked(provider="runpod"), headers=key)

    assert len({answer.json()["job_id"] for answer in answers}) == 1
    assert {answer.status_code for answer in answers} <= {200, 201}
    assert other.status_code == 409


async def test_an_id_is_chosen_once(service):
    job_id = chosen()
    await service.post(JOBS, json=asked(job_id))

    answer = await service.post(JOBS, json=asked(job_id))

    assert (answer.status_code, answer.json()["error"]) == (409, "Conflict")


@pytest.mark.parametrize(
    ("body", "names"),
    [
        ({"dataset_path": "d"}, "model_name"),
        ({"model_name": "m"}, "dataset_path"),
        (asked(training={"learning_rate": "fast"}), "learning_rate"),
        (asked(job={"name": "x"}), "job and"),
        (asked(provider="nowhere-at-all", training={"metod": "sft"}), "metod"),
    ],
)
async def test_what_cannot_be_a_job_is_named(service, body, names):
    answer = await service.post(JOBS, json=body)

    assert answer.status_code == 400
    assert names in answer.json()["detail"]


@pytest.mark.parametrize("body", [asked("../etc"), asked(nonsense=1)])
async def test_what_is_no_request_is_refused(service, body):
    assert (await service.post(JOBS, json=body)).status_code == 422


async def test_the_list_has_pages_and_filters(service):
    ids = [chosen() for _ in range(5)]
    for number, job_id in enumerate(ids):
        provider = "vast" if number % 2 else "lambda"
        await service.post(JOBS, json=asked(job_id, provider=provider))

    seen: list[str] = []
    cursor, totals = None, []
    while cursor is not None or not seen:
        query = {"provider": "lambda", "state": "created", "limit": 2}
        page = (
            await service.get(JOBS, params=query | ({"cursor": cursor} if cursor else {}))
        ).json()
        seen += [job["job_id"] for job in page["jobs"]]
        cursor = page["cursor"]
        totals.append(page["total"])

    assert len(seen) == len(set(seen))
    # Other tests' jobs come and go on the same server meanwhile.
    assert min(totals) <= len(seen) <= max(totals)
    assert set(ids[::2]) <= set(seen)
    assert not set(ids[1::2]) & set(seen)
    assert (await service.get(JOBS, params={"cursor": "!"})).status_code == 400
    assert (await service.get(JOBS, params={"limit": 201})).status_code == 422


async def test_the_whole_list_is_counted_by_prefect(service):
    await service.post(JOBS, json=asked(chosen()))

    first = (await service.get(JOBS, params={"limit": 1})).json()
    rest = (await service.get(JOBS, params={"limit": 200, "cursor": first["cursor"]})).json()

    given = [first["jobs"][0]["job_id"], *(job["job_id"] for job in rest["jobs"])]
    assert len(given) == len(set(given))
    assert first["total"] >= 1


async def test_a_job_without_a_log_has_no_lines(service):
    job_id = chosen()
    await service.post(JOBS, json=asked(job_id))

    logs = (await service.get(f"{JOBS}/{job_id}/logs", params={"after": -10})).json()
    errors = (await service.get(f"{JOBS}/{job_id}/errors")).json()

    assert logs == {"job_id": job_id, "logs": [], "next": 0}
    assert errors == {"job_id": job_id, "errors": []}


async def test_one_key_makes_one_job_whatever_ids_are_chosen(service):
    key = {"Idempotency-Key": uuid.uuid4().hex}

    first = await service.post(JOBS, json=asked(chosen()), headers=key)
    second = await service.post(JOBS, json=asked(chosen()), headers=key)

    assert (first.status_code, second.status_code) == (201, 409)


async def test_whoever_submits_learns_that_nobody_serves_the_job(deployed):
    job_id = chosen()
    await deployed.post(JOBS, json=asked(job_id))

    submitted = (await deployed.post(f"{JOBS}/{job_id}/submit")).json()

    assert "worker" in submitted["message"]


async def test_jobs_are_runs_of_the_deployment_that_is_set(deployed, app):
    app.state.settings = app.state.settings.model_copy(update={"deployment": "train/nowhere"})
    job_id = chosen()
    await deployed.post(JOBS, json=asked(job_id))

    answer = await deployed.post(f"{JOBS}/{job_id}/submit")

    assert answer.status_code == 400
    assert "train/nowhere" in answer.json()["detail"]


async def test_a_log_is_read_in_parts(service):
    job_id = chosen()
    created = (await service.post(JOBS, json=asked(job_id))).json()
    folder = RunFolder(created["link"].rpartition("/")[2])
    folder.log.write_text("".join(f"line {n}\n" for n in range(10)))

    def part(after: int, limit: int) -> Any:
        query = {"after": after, "limit": limit}
        return service.get(f"{JOBS}/{job_id}/logs", params=query)

    first, last = (await part(2, 3)).json(), (await part(-2, 100)).json()
    assert (first["logs"], first["next"]) == (["line 2", "line 3", "line 4"], 5)
    assert (last["logs"], last["next"]) == (["line 8", "line 9"], 10)
