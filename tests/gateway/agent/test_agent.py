"""`trainctl agent` as a process of its own, asked and reporting as the document has it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.gateway.commanding import EXAMPLES, job_values
from tests.gateway.serving import prefect_of_its_own, service
from tests.waiting import PATIENCE, until_now
from trainer.contract.metrics import read_metrics

pytestmark = [pytest.mark.thorough, pytest.mark.timeout(900)]
SETTINGS = """
BACKEND_URL={backend}
HOST=127.0.0.1
MODELS_DIR={examples}
DATASETS_DIR={examples}
CHECKPOINTS_DIR=./checkpoints
LOGS_DIR=./logs
GPU_MEMORY_FRACTION=0.9
ENABLE_MIXED_PRECISION=true
MAX_CONCURRENT_JOBS=1
CHECKPOINT_INTERVAL_STEPS=500
METRICS_REPORT_INTERVAL_STEPS=2
"""


def curl(*words: str) -> dict[str, Any]:
    done = subprocess.run(["curl", "-s", *words], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def until_status(ask: Callable[[], dict[str, Any]], wanted: str) -> dict[str, Any]:
    return until_now(lambda: (found := ask())["status"] == wanted and found, 3 * PATIENCE)


def test_the_documents_life_of_a_job_with_our_service_as_the_backend(prefect_api, tmp_path):
    with service(tmp_path) as backend, prefect_of_its_own(tmp_path) as environ:
        made = {"job_id": "theirs", "job": job_values()}
        httpx.post(f"{backend}/api/training/jobs", json=made).raise_for_status()
        asked = {"job_id": "theirs"}
        token = httpx.post(f"{backend}/api/access/job-tokens", json=asked).json()["token"]
        (tmp_path / ".env").write_text(SETTINGS.format(backend=backend, examples=EXAMPLES))
        first = {"job_id": "theirs", "job": job(max_steps=4000), "job_token": token}
        (tmp_path / "test_job.json").write_text(json.dumps(first))
        with service(tmp_path, "agent", environ=environ) as url:
            live(url, tmp_path)
            (file,) = (
                path
                for path in (tmp_path / "home" / "runs").glob("*/metrics.jsonl")
                if len(path.read_text().splitlines()) > 4
            )
            steps, _ = read_metrics(file)
            until_now(lambda: reported(backend)[-1:] == list(steps)[-1:])
        told = reported(backend)

    assert told == list(steps), "each step once, across the pause"
    assert (tmp_path / "logs" / "theirs.log").exists()
    assert (tmp_path / "checkpoints" / "theirs").is_symlink()
    for log in tmp_path.glob("*.log"):
        assert token not in log.read_text()


def live(url: str, folder: Path) -> None:
    """Send the document's requests, as it writes them."""

    def status(job_id: str = "theirs") -> dict[str, Any]:
        return curl(f"{url}/api/training/status/{job_id}")

    def step() -> int:
        return status()["latest_metrics"].get("step", 0)

    health = curl(f"{url}/health")
    executed = curl(
        *("-X", "POST", f"{url}/api/training/execute", "-H", "Content-Type: application/json"),
        *("-d", f"@{folder / 'test_job.json'}"),
    )
    second = {"job_id": "second", "job": job(max_steps=4), "job_token": "of-nobody"}
    httpx.post(f"{url}/api/training/execute", json=second).raise_for_status()
    until_now(lambda: step() > 4, 3 * PATIENCE)
    waits = status("second")
    curl("-X", "POST", f"{url}/api/training/pause/theirs")
    until_status(status, "paused")
    stood = step()
    curl("-X", "POST", f"{url}/api/training/resume/theirs")
    until_now(lambda: step() > stood, 3 * PATIENCE)
    logs = curl(f"{url}/api/training/logs/theirs")
    curl("-X", "POST", f"{url}/api/training/cancel/theirs")
    until_status(status, "stopped")
    until_status(lambda: status("second"), "completed")
    listed = curl(f"{url}/api/training/jobs")

    assert health["status"] == "healthy"
    assert set(health["gpu"]) == {"available", "count", "devices"}
    assert executed["job_id"] == "theirs"
    assert waits["status"] == "created", "MAX_CONCURRENT_JOBS = 1"
    assert logs["logs"]
    assert {each["job_id"] for each in listed["jobs"]} == {"theirs", "second"}


def job(**training: Any) -> dict[str, Any]:
    """Return a job whose files are named as the agent finds them in its folders."""
    values = job_values(**training)
    values["training"]["model"] = "tiny-llama"
    values["training"]["dataset"]["path"] = "quickstart.jsonl"
    return values


def reported(url: str) -> list[int]:
    found = httpx.get(f"{url}/api/training/local/theirs/metrics").json()
    return [record["step"] for record in found["metrics"]]
