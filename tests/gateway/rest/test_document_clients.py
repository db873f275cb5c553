"""Programs as they were written against the founding documents: curl, and Python with requests."""

from __future__ import annotations

import asyncio
import hashlib
import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import requests
from prefect import get_client

from deployments.deploy import deploy
from tests.clouds.runpod import RunPodCloud
from tests.gateway.commanding import job_values
from tests.gateway.serving import TRAINCTL, prefect_of_its_own, process_of, service, variables
from tests.gateway.streams.conftest import served  # noqa: F401 - a fixture
from tests.stand_in import stand_in
from tests.waiting import PATIENCE

SECONDS = 60.0  # for an answer on a busy computer
OVER = {"completed", "failed", "stopped"}
REPORTER = """
import datetime, os, pathlib, requests, struct
answer = requests.post(
    os.getenv("METRICS_API_URL"),
    json={"job_id": os.getenv("JOB_ID"), "metrics": [{
        "step": 100, "epoch": 1, "train_loss": 0.45, "eval_loss": 0.42, "learning_rate": 0.00005,
        "grad_norm": 0.512, "samples_per_second": 12.5, "gpu_memory_allocated_gb": 22.1,
        "gpu_utilization_percent": 97.5, "perplexity": 1.41,
        "timestamp": datetime.datetime.now(datetime.UTC).isoformat(),
    }]},
    headers={"Authorization": "Bearer " + os.getenv("JOB_TOKEN")},
)
print("metrics:", answer.status_code, "with", os.getenv("JOB_TOKEN"))
alert = {"type": "job_started", "job_id": os.getenv("JOB_ID"), "user_id": os.getenv("USER_ID")}
answer = requests.post(
    os.getenv("ALERT_API_URL"), json=alert | {"total_steps": 100}, timeout=10,
    headers={"Content-Type": "application/json", "X-API-Key": os.getenv("INTERNAL_API_KEY")},
)
print("alert:", answer.status_code)
final = pathlib.Path("out/final")
final.mkdir(parents=True)
(final / "model.safetensors").write_bytes(struct.pack("<Q", 2) + b"{}")
"""


class Caller:
    """Sends what such a program sends, and shows it."""

    def __init__(self, url: str) -> None:
        self.url = url

    def curl(self, path: str, *words: str) -> dict[str, Any]:
        command = ["curl", "-s", f"{self.url}{path}", *words]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return self._shown(f"curl {' '.join([f'$URL{path}', *words])}", 0, json.loads(done.stdout))

    def get(self, path: str) -> dict[str, Any]:
        answer = requests.get(f"{self.url}{path}", timeout=SECONDS)
        return self._shown(f"requests.get({path})", answer.status_code, answer.json())

    def post(self, path: str, body: Any = None, status: int = 200) -> dict[str, Any]:
        answer = requests.post(f"{self.url}{path}", json=body, timeout=SECONDS)
        found = self._shown(f"requests.post({path}, {body})", answer.status_code, answer.json())
        assert answer.status_code == status, found
        return found

    def until_over(self, job_id: str) -> dict[str, Any]:
        """Ask for a job's status until it is over, and show the last one only."""
        deadline = time.monotonic() + 4 * PATIENCE
        address = f"{self.url}/api/training/jobs/{job_id}/status"
        while (found := requests.get(address, timeout=SECONDS).json())["state"] not in OVER:
            assert time.monotonic() < deadline, found
            time.sleep(1)
        return self._shown(f"requests.get({address.removeprefix(self.url)})", 200, found)

    @staticmethod
    def _shown(what: str, status: int, found: dict[str, Any]) -> dict[str, Any]:
        print(f">>> {what}\n{status or ''} {json.dumps(found)[:900]}\n")  # noqa: T201
        return found


def create(caller: Caller, job_id: str, **training: Any) -> None:
    """Create a job as a client of document 000 does: `model_name` and `dataset_path`."""
    values = job_values(**training)["training"]
    body = {
        "job_id": job_id,
        "model_name": values.pop("model"),
        "dataset_path": values.pop("dataset")["path"],
        "training": values,
    }
    made = caller.post("/api/training/jobs", body, 201)
    assert (made["job_id"], made["state"]) == (job_id, "created")


def life_without_a_worker(url: str) -> None:
    caller = Caller(url)
    create(caller, "my_job_123")
    data = caller.post("/api/training/jobs/my_job_123/submit", {"provider": "local"})
    assert {"job_id", "provider", "provider_job_id", "state", "started_at"} <= set(data)
    assert data["provider"] == "local"
    status = caller.get("/api/training/jobs/my_job_123/status")
    assert {"current_metrics", "artifact_info"} <= set(status)
    listed = caller.get("/api/training/jobs?provider=local&state=created")
    assert "my_job_123" in [job["job_id"] for job in listed["jobs"]]
    stopped = caller.post("/api/training/jobs/my_job_123/cancel")
    assert (stopped["state"], stopped["message"]) == ("stopped", "Job cancelled successfully")
    again = caller.post("/api/training/jobs/my_job_123/cancel", status=400)
    assert {"error", "detail", "job_id"} <= set(again)
    caller.post("/api/training/jobs/nobody/cancel", status=404)
    caller.post("/api/training/jobs/my_job_123/download-artifact", status=404)


async def test_a_job_is_created_submitted_looked_at_and_cancelled(served):  # noqa: F811
    async with get_client() as client:
        await deploy(client, lambda _: None)
    await asyncio.to_thread(life_without_a_worker, f"http://localhost:{served.port}")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[Caller, RunPodCloud]]:
    """A service, a worker, and an account at the local RunPod."""
    with ExitStack() as held:
        environ = held.enter_context(prefect_of_its_own(tmp_path))
        cloud = held.enter_context(RunPodCloud(tmp_path / "runpod"))
        cloud.boot_seconds = 1.0
        environ |= cloud.environ()
        url = held.enter_context(service(tmp_path, environ=environ))
        environ["TRAINING_ORCHESTRATOR_URL"] = url
        words = [*TRAINCTL, "deploy"]
        subprocess.run(words, env=variables(environ), check=True, timeout=2 * PATIENCE)
        held.enter_context(process_of(tmp_path, "worker", seen="serving http", environ=environ))
        yield Caller(url.replace("127.0.0.1", "localhost")), cloud


@pytest.mark.thorough
@pytest.mark.timeout(1500)
def test_real_trainings_here_and_at_runpod(site, tmp_path):
    caller, cloud = site
    for job_id, provider in (("job_1", "local"), ("job_2", "runpod")):
        create(caller, job_id)
        data = caller.post(f"/api/training/jobs/{job_id}/submit", {"provider": provider})
        assert data["provider"] == provider
    for job_id in ("job_1", "job_2"):
        status = caller.until_over(job_id)
        assert status["state"] == "completed", status
        assert status["current_metrics"]["step"] == 6
        assert {"loss", "learning_rate", "epoch"} <= set(status["current_metrics"])
        assert status["artifact_info"]["hash_sha256"]
        artifact = caller.post(f"/api/training/jobs/{job_id}/download-artifact")
        file = Path(artifact["path"])
        assert hashlib.sha256(file.read_bytes()).hexdigest() == artifact["hash_sha256"]
        assert artifact["size_bytes"] == file.stat().st_size
    assert artifact["metadata"]["provider"] == "runpod"
    assert artifact["metadata"]["provider_job_id"] == status["provider_job_id"]
    assert cloud.alive() == []

    started = {
        "train_id": "train_1",
        "endpoint_id": "endpoint_uuid",
        "version": 1,
        "training_pairs_count": 20,
        "slm_type": job_values()["training"]["model"],
        "source_llm": "gpt-3.5-turbo",
        "provider": "runpod",
        "dataset_path": job_values()["training"]["dataset"]["path"],
    }
    caller.post("/api/v1/training/start", started, 201)
    assert caller.get("/api/v1/training/train_1/status")["train_id"] == "train_1"
    caller.post("/api/v1/training/train_1/cancel")
    assert caller.until_over("train_1")["state"] == "stopped"

    script = tmp_path / "standalone.py"
    script.write_text(REPORTER)
    foreign = stand_in(tmp_path, run=["python", "standalone.py"], files=[str(script)])
    del foreign["command"]["resume"]
    body = {"job_id": "foreign", "job": {**job_values(), "training": foreign}}
    caller.post("/api/training/execute", body, 201)
    status = caller.until_over("foreign")
    logs = caller.curl("/api/training/logs/foreign")["logs"]
    stored = caller.curl("/api/training/local/foreign/metrics")["metrics"]
    assert status["state"] == "completed", logs
    assert any("metrics: 200 with ***" in line for line in logs)
    assert any("alert: 200" in line for line in logs)
    assert (stored[0]["step"], stored[0]["perplexity"]) == (100, pytest.approx(1.41))
