"""From `trainctl submit` to the training's first log line in Prefect, and what the time is spent on.

A work pool and the deployment are made as `trainctl deploy` makes them, and a worker waits
warm: once polling every 10 seconds (Prefect's default), once every second. The moment of
submission within a polling interval is random. Stages:

cli        from the command's start until the API has the flow run
pick-up    until the worker takes it (Pending)
start      until the flow's first line: Prefect starts a process, imports, reads the run
prepare    until the training is started: place, provision, install
log        until the trainer's first log line is with Prefect: the total ends here
first step (after that, not in the total) until step 1 is trained: torch is imported meanwhile

The last line is Prefect's share of the total, pick-up and start, with its default polling.
"""

from __future__ import annotations

import itertools
import json
import random
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
from common import EXAMPLES, Place, conclude, fail, median, options, place, spread, wait_until

from trainer.contract.files import replace_json
from trainer.contract.metrics import read_metrics

POLLS = {"default": 10.0, "1": 1.0}
TRAINCTL = Path(sys.executable).with_name("trainctl")
STAGES = ("cli", "pick-up", "start", "prepare", "log", "total", "first step")
PREFECT_STAGES = ("pick-up", "start")


def main() -> None:
    """Measure and print."""
    given = options(__doc__ or "")
    spent: dict[str, list[dict[str, float]]] = {name: [] for name in POLLS}
    with place() as here:
        api = httpx.Client(base_url=here.prefect_server(), timeout=60)
        here.python("-P", "-m", "gateway", "deploy")
        for _ in range(given.rounds):
            for name, seconds in POLLS.items():
                spent[name].append(one_submission(here, api, name, seconds))
    shares = {name: tell(name, rounds) for name, rounds in spent.items()}
    conclude("submit_prefect_share", shares["default"], "<=", 1.0)


def one_submission(here: Place, api: httpx.Client, poll: str, seconds: float) -> dict[str, float]:
    """Submit one job to a warm worker and return the seconds of each stage."""
    command = [str(TRAINCTL), "worker", "--pool", "local-gpu"]
    setting = {} if poll == "default" else {"PREFECT_WORKER_QUERY_SECONDS": poll}
    before = time.time()
    worker = here.start(command, "worker.log", **setting)
    wait_until(lambda: is_warm(api, before) or worker.must_live(), 120)
    time.sleep(random.uniform(0, seconds))  # noqa: S311 - the moment is arbitrary, not secret

    began = time.time()
    submitted = subprocess.run(
        [TRAINCTL, "submit", job_file(here), "--json"],
        env=here.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if submitted.returncode:
        fail(f"trainctl submit: exit code {submitted.returncode}\n{submitted.stderr}")
    run_id = json.loads(submitted.stdout)["id"]
    first_line = wait_until(lambda: first_training_line(api, run_id), 300)
    wait_until(lambda: is_over(api, run_id), 300, every=0.5)
    worker.process.terminate()
    worker.process.wait()
    return stages(here, api, run_id, began, first_line)


def stages(
    here: Place, api: httpx.Client, run_id: str, began: float, first_line: float
) -> dict[str, float]:
    """Return the seconds of each stage, from the times in Prefect's own records."""
    run = api.get(f"/flow_runs/{run_id}").raise_for_status().json()
    history = api.get("/flow_run_states/", params={"flow_run_id": run_id}).raise_for_status().json()
    state = {s["name"]: epoch(s["timestamp"]) for s in reversed(history)}
    logs = read_logs(api, run_id)
    started = next(epoch(r["timestamp"]) for r in logs if "started the training" in r["message"])
    steps, _ = read_metrics(here.home / "runs" / run_id / "metrics.jsonl")
    times = [
        began,
        epoch(run["created"]),
        state["Pending"],
        state["Initializing"],  # the flow's first line sets this state
        started,
        first_line,
    ]
    spent = [after - before for before, after in itertools.pairwise(times)]
    step = epoch(steps[1]["timestamp"]) - first_line
    return dict(zip(STAGES, [*spent, first_line - began, step], strict=True))


def tell(poll: str, rounds: list[dict[str, float]]) -> float:
    """Print the medians of the stages and return Prefect's share of the total."""
    print(f"PREFECT_WORKER_QUERY_SECONDS {poll}")
    for stage in STAGES:
        print(f"  {stage:11} {spread([spent[stage] for spent in rounds])}")
    shares = [sum(s[stage] for stage in PREFECT_STAGES) / s["total"] for s in rounds]
    print(f"  Prefect's   {median(shares):8.0%}")
    return median(shares)


def job_file(here: Place) -> Path:
    """Write a job of two steps; JSON is YAML."""
    path = here.folder / "job.yaml"
    job = {
        "name": "submitted",
        "resources": {"gpu_count": 0, "cpu_threads": 1},
        "training": {
            "model": str(EXAMPLES / "tiny-llama"),
            "dataset": {"path": str(EXAMPLES / "quickstart.jsonl")},
            "max_steps": 2,
        },
    }
    replace_json(path, job)
    return path


def is_warm(api: httpx.Client, since: float) -> bool:
    """Whether a worker has been heard of since then, in seconds since the epoch."""
    return any(epoch(worker["last_heartbeat_time"]) > since for worker in workers(api))


def workers(api: httpx.Client) -> list[dict[str, Any]]:
    """Return the workers that the pool knows, of all rounds."""
    answer = api.post("/work_pools/local-gpu/workers/filter", json={})
    return list(answer.raise_for_status().json())


def read_logs(api: httpx.Client, run_id: str) -> list[dict[str, Any]]:
    """Return the run's log records in order."""
    wanted = {"flow_run_id": {"any_": [run_id]}}
    answer = api.post("/logs/filter", json={"logs": wanted, "sort": "TIMESTAMP_ASC"})
    return list(answer.raise_for_status().json())


def first_training_line(api: httpx.Client, run_id: str) -> float | None:
    """Return the time now once Prefect has a line of the training's log, else None."""
    logs = read_logs(api, run_id)
    return time.time() if any(record["name"] == "train.log" for record in logs) else None


def is_over(api: httpx.Client, run_id: str) -> bool:
    """Whether the run is completed; any other end ends the benchmark."""
    run = api.get(f"/flow_runs/{run_id}").raise_for_status().json()
    if run["state_type"] in {"FAILED", "CRASHED", "CANCELLED"}:
        fail(f"The flow run ended as {run['state_name']}: {run['state']['message']}")
    return bool(run["state_type"] == "COMPLETED")


def epoch(text: str) -> float:
    """Return an ISO 8601 time as seconds since the epoch."""
    return datetime.fromisoformat(text).astimezone(UTC).timestamp()


if __name__ == "__main__":
    main()
