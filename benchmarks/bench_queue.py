"""The worker that executes many runs in one process, against Prefect's process worker on the same server.

Trainers are stand-ins, which start at once: what is measured is all that comes before and around them.

first line   from a submission by REST to the trainer's first line at home, one job after the other; Prefect's
             worker looks every second, and not every ten as it does by default
first step   the same, until a real trainer has trained its first step (it imports torch, here and there)
wave         so many jobs at once: until the last one's first line, and until all are completed; the processor
             time of worker and server (trainers and their supervisors apart), and the worker's memory
cancel       from the request until the run is Cancelled, of jobs that train
next start   from a job's end until the next one is taken, where only one may run
"""

from __future__ import annotations

import contextlib
import statistics
import sys
import time
import uuid
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import psutil
from common import (
    EXAMPLES,
    Place,
    conclude,
    fail,
    median,
    options,
    place,
    spread,
    wait_until,
)

from tests.stand_in import stand_in

WAIT = 600.0
OVER = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
LINE_GOAL, STEP_GOAL = 0.2, 0.35
WAVE_GOAL, CPU_GOAL, CANCEL_GOAL, NEXT_GOAL = 40.0, 75.0, 2.0, 2.0  # seconds


def main() -> None:
    """Measure and print."""
    given = options(__doc__ or "", rounds=5, jobs=100)
    count = 10 if given.quick else given.jobs
    with place() as here:
        api = Patient(base_url=here.prefect_server(), timeout=120)
        site = Site(here, api)
        ours = {kind: site.one_by_one(kind, given.rounds) for kind in ("training", "process")}
        lines, steps = (
            median(ours["training"][n]) / median(ours["process"][n]) for n in ("line", "step")
        )
        for kind, found in ours.items():
            print(f"{kind:9} first line {spread(found['line'])}")
            print(f"{kind:9} first step {spread(found['step'])}")
        last, cpu = site.wave(count)
        cancels = site.cancels(given.rounds)
        print(f"cancel {spread(cancels)}")
        gaps = site.next_starts(4 if given.quick else 12)
        print(f"next start {spread(gaps)}")
    conclude("queue_first_line", lines, "<=", LINE_GOAL)
    conclude("queue_first_step", steps, "<=", STEP_GOAL)
    conclude("queue_last_first_line", last / WAVE_GOAL, "<=", 1.0)
    conclude("queue_cpu_seconds", cpu / CPU_GOAL, "<=", 1.0)
    conclude("queue_cancel", median(cancels) / CANCEL_GOAL, "<=", 1.0)
    conclude("queue_next_start_p95", p95(gaps) / NEXT_GOAL, "<=", 1.0)


class Patient(httpx.Client):
    """Asks again where a busy server refuses for the moment, or has closed the line."""

    def send(self, request: httpx.Request, **options: Any) -> httpx.Response:
        """Send a request; see httpx."""
        while True:
            with contextlib.suppress(httpx.TransportError):
                answer = super().send(request, **options)
                if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                    return answer
            time.sleep(0.1)


class Site:
    """A server with a pool of each type."""

    def __init__(self, here: Place, api: httpx.Client) -> None:
        self.here, self.api = here, api
        here.python("-P", "-m", "gateway", "deploy")
        template = api.get("/work_pools/local-gpu").raise_for_status().json()["base_job_template"]
        body = {"name": "process", "type": "process", "base_job_template": template}
        api.post("/work_pools/", json=body).raise_for_status()
        local = self._deployment("train/local")
        self._deployments = {"training": local["id"]}
        # As ours, but without its form, which both would pay for alike.
        made = {"flow_id": local["flow_id"], "name": "process", "work_pool_name": "process"}
        made |= {"entrypoint": local["entrypoint"], "pull_steps": []}
        made |= {"job_variables": {"stream_output": False}}
        answer = api.post("/deployments/", json=made).raise_for_status().json()
        self._deployments["process"] = answer["id"]
        patch = {"enforce_parameter_schema": False}
        api.patch(f"/deployments/{local['id']}", json=patch).raise_for_status()

    def _deployment(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.api.get(f"/deployments/name/{name}").raise_for_status().json()
        return found

    @contextlib.contextmanager
    def worker(self, kind: str, limit: int) -> Any:
        """Keep a worker of a kind, warm, while the body runs."""
        if kind == "training":
            words = ["-P", "-m", "gateway", "worker", "--pool", "local-gpu", "--limit", limit]
        else:
            words = ["-P", "-m", "prefect", "worker", "start", "--pool", "process"]
            words += ["--type", "process", "--limit", limit]
        begun = self.here.start(
            [sys.executable, *words], f"{kind}.log", PREFECT_WORKER_QUERY_SECONDS="1"
        )
        wait_until(lambda: "started!" in begun.log.read_text() or begun.must_live(), 120)
        time.sleep(2)
        try:
            yield begun
        finally:
            begun.process.terminate()
            begun.process.wait()
            begun.log.write_text("")

    def submit(self, kind: str, training: dict[str, Any]) -> str:
        """Submit a job by REST and return its run's id."""
        job = {
            "name": f"bench-{uuid.uuid4().hex[:6]}",
            "resources": {"gpu_count": 0, "cpu_threads": 1},
            "training": {
                "model": str(EXAMPLES / "tiny-llama"),
                "dataset": {"path": str(EXAMPLES / "quickstart.jsonl")},
                **training,
            },
        }
        path = f"/deployments/{self._deployments[kind]}/create_flow_run"
        # Under its key a submission that is sent again makes one run.
        body = {"parameters": {"job": job}, "idempotency_key": job["name"], "name": job["name"]}
        answer = self.api.post(path, json=body)
        return str(answer.raise_for_status().json()["id"])

    def stand_in(self, *words: object) -> dict[str, Any]:
        """Return the `training` of a job whose trainer needs no torch."""
        folder = self.here.folder / "stand-in"
        folder.mkdir(exist_ok=True)
        return stand_in(folder, *words)

    def file(self, run_id: str, name: str) -> Path:
        """Return a file of a run at home."""
        return self.here.home / "runs" / run_id / name

    def has(self, run_id: str, name: str = "train.log") -> bool:
        """Whether a file of a run has come home."""
        file = self.file(run_id, name)
        return file.exists() and file.stat().st_size > 0

    def state(self, run_id: str) -> dict[str, Any]:
        """Return the state of a run."""
        found: dict[str, Any] = self.api.get(f"/flow_runs/{run_id}").raise_for_status().json()
        return dict(found["state"])

    def is_over(self, run_id: str) -> bool:
        """Whether a run has ended."""
        return self.state(run_id)["type"] in OVER

    def one_by_one(self, kind: str, rounds: int) -> dict[str, list[float]]:
        """Return the seconds to the first line, and to the first step of a real trainer."""
        found: dict[str, list[float]] = {"line": [], "step": []}
        real = {"max_steps": 2, "init": "random", "peft": None}
        with self.worker(kind, 1):
            for what, training, file, times in (
                ("line", self.stand_in("--steps", 2), "train.log", rounds),
                ("step", real, "metrics.jsonl", max(1, rounds // 2)),
            ):
                for _ in range(times):
                    began = time.monotonic()
                    run_id = self.submit(kind, training)
                    wait_until(lambda run=run_id, file=file: self.has(run, file), WAIT, 0.02)
                    found[what].append(time.monotonic() - began)
                    wait_until(lambda run=run_id: self.is_over(run), WAIT, 0.5)
        return found

    def wave(self, count: int) -> tuple[float, float]:
        """Have so many jobs start at once; return the last first line, and the processor time."""
        with self.worker("training", count) as begun:
            server = psutil.Process(self.here.server_pid)
            [process] = [
                child
                for child in psutil.Process(begun.process.pid).children()
                if "local-gpu" in child.cmdline()
            ]
            # Submitted while the pool is paused, so that all are there when it starts.
            self.api.patch("/work_pools/local-gpu", json={"is_paused": True}).raise_for_status()
            training = self.stand_in("--steps", 5, "--pace", 0.5)
            ids = [self.submit("training", training) for _ in range(count)]
            before, began = seconds_of(process) + seconds_of(server), time.monotonic()
            self.api.patch("/work_pools/local-gpu", json={"is_paused": False}).raise_for_status()
            wait_until(lambda: all(map(self.has, ids)), WAIT)
            last = time.monotonic() - began
            so_far = seconds_of(process) + seconds_of(server) - before
            only = {"flow_runs": {"id": {"any_": ids}, "state": {"type": {"any_": ["COMPLETED"]}}}}
            wait_until(
                lambda: self.api.post("/flow_runs/count", json=only).text == str(count), WAIT, 1.0
            )
            cpu = seconds_of(process) + seconds_of(server) - before
            memory = process.memory_info().rss / 2**20
            print(
                f"wave of {count}: last first line {last:.1f} s ({so_far:.0f} CPU-s), all completed "
                f"after {time.monotonic() - began:.1f} s: {cpu:.0f} CPU-s, of them the worker "
                f"{seconds_of(process):.0f}; its memory {memory:.0f} MiB"
            )
        return last, cpu

    def cancels(self, rounds: int) -> list[float]:
        """Return how long it takes from asking until a run that trains is Cancelled."""
        found = []
        with self.worker("training", rounds):
            training = self.stand_in("--steps", 1000, "--pace", 0.1)
            ids = [self.submit("training", training) for _ in range(rounds)]
            wait_until(lambda: all(map(self.has, ids)), WAIT)
            time.sleep(5)
            for run_id in ids:
                began = time.monotonic()
                body = {"state": {"type": "CANCELLING", "name": "Cancelling"}}
                self.api.post(f"/flow_runs/{run_id}/set_state", json=body).raise_for_status()
                wait_until(lambda run=run_id: self.is_over(run), WAIT, 0.05)
                found.append(time.monotonic() - began)
                if self.state(run_id)["type"] != "CANCELLED":
                    fail(f"{run_id} is {self.state(run_id)}")
        return found

    def next_starts(self, count: int) -> list[float]:
        """Return how long a place was free between two jobs, where only one may run."""
        with self.worker("training", 1):
            ids = [self.submit("training", self.stand_in("--steps", 2)) for _ in range(count)]
            wait_until(lambda: all(map(self.is_over, ids)), WAIT, 1.0)
        taken, ended = [], []
        for run_id in ids:
            states = self.api.get("/flow_run_states/", params={"flow_run_id": run_id}).json()
            times = {one["type"]: one["timestamp"] for one in reversed(states)}
            taken.append(epoch(min(o["timestamp"] for o in states if o["type"] == "PENDING")))
            ended.append(epoch(times["COMPLETED"]))
        return [
            later - before for before, later in zip(sorted(ended), sorted(taken)[1:], strict=False)
        ]


def seconds_of(process: psutil.Process) -> float:
    """Return the processor time of a process, without its children."""
    times = process.cpu_times()
    return float(times.user + times.system)


def epoch(moment: str) -> float:
    """Return a moment as Prefect writes it in seconds."""
    return datetime.fromisoformat(moment).timestamp()


def p95(values: Sequence[float]) -> float:
    """Return what 95 of 100 are below."""
    return statistics.quantiles(values, n=20)[-1] if len(values) > 1 else values[0]


if __name__ == "__main__":
    main()
