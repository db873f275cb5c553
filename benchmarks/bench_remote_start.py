"""From ordering a machine to the first step trained there, without the provider's own boot time.

remote      `trainctl run` with a pod of RunPod's local server, which boots in exactly 5 seconds; its
            image has Python and torch, as the provider's own images do, and nothing of ours. Timed
            from the create request to the first step's metric here; only those 5 seconds are
            subtracted.
reference   `python -m trainer JOBDIR` here, in a fresh process, until its first step's metric: that
            is importing torch, loading the model and one step. The rest of remote is ours.

The Prefect server runs already. Stages of remote, by the time stamps of the run's log in Prefect:

reach       from the end of the boot until SSH answers and the machine has been looked at
environment until there is a Python environment with the trainer
upload      until model and data are on the machine
supervisor  until the supervisor there has started the trainer
trainer     until the first step's metric is here
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from datetime import datetime
from pathlib import Path

import httpx
from common import (
    EXAMPLES,
    Place,
    Process,
    conclude,
    fail,
    median,
    options,
    place,
    spread,
    wait_until,
)

from tests.clouds.runpod import RunPodCloud
from trainer.contract.metrics import read_metrics

GOAL = 10.0  # seconds
BOOT_SECONDS = 5.0
TRAINCTL = Path(sys.executable).with_name("trainctl")
MARKS = {
    "reach": " is ready after ",
    "environment": "environment ready in ",
    "upload": "uploaded in ",
    "supervisor": "started the training in ",
}
"""What the log says at the end of each stage."""


def main() -> None:
    """Measure and print."""
    given = options(__doc__ or "")
    alone: list[float] = []
    remote: list[dict[str, float]] = []
    with place() as here:
        api = httpx.Client(base_url=here.prefect_server(), timeout=60)
        file = here.folder / "job.yaml"
        file.write_text(json.dumps(job()))
        for number in range(given.rounds):
            alone.append(first_step_alone(here, number))
            print(f"round {number + 1}: reference {alone[-1]:.2f} s", flush=True)
            remote.append(first_step_remote(here, api, file, number))
            told = ", ".join(f"{name} {seconds:.2f}" for name, seconds in remote[-1].items())
            print(f"round {number + 1}: {told} s", flush=True)
    for name in remote[0]:
        print(f"{name:11} {spread([stages[name] for stages in remote])}")
    print(f"reference   {spread(alone)}")
    total = median([stages["total"] for stages in remote])
    print(f"total without what the reference takes {total - median(alone):.2f} s")
    conclude("remote_start_seconds", total, "<=", GOAL)


def job() -> dict[str, object]:
    """Return a job of three steps, without an evaluation before them."""
    return {
        "name": "start",
        "provider": "runpod",
        "resources": {"gpu_count": 0, "cpu_threads": 1},
        "training": {
            "model": str(EXAMPLES / "tiny-llama"),
            "dataset": str(EXAMPLES / "quickstart.jsonl"),
            "max_steps": 3,
            "max_length": 256,
        },
    }


def first_step_alone(here: Place, number: int) -> float:
    """Return the seconds from starting a trainer here until its first step."""
    training = job()["training"]
    assert isinstance(training, dict)
    directory = here.job_directory(f"alone-{number}", training)
    began = time.time()
    trainer = here.start(
        [sys.executable, "-m", "trainer", directory.root], "trainer.supervision.log"
    )
    seconds = first_metric(directory.metrics, trainer) - began
    trainer.finished()
    return seconds


def first_step_remote(here: Place, api: httpx.Client, file: Path, number: int) -> dict[str, float]:
    """Return the seconds of each stage on a rented machine, and in total."""
    runs = here.home / "runs"
    known = set(runs.glob("*"))
    with RunPodCloud(here.folder / f"cloud-{number}") as cloud:
        cloud.boot_seconds = BOOT_SECONDS
        trainctl = here.start([TRAINCTL, "run", file], "trainctl.log", **cloud.environ())
        run = wait_until(
            lambda: trainctl.must_live() or next(iter(set(runs.glob("*")) - known), None), 60
        )
        arrived = first_metric(run / "metrics.jsonl", trainctl)
        trainctl.finished()
        booted = cloud.all[0].created + BOOT_SECONDS
        if len(cloud.all) != 1 or cloud.alive():
            fail(f"{len(cloud.all)} pods were ordered; left: {cloud.alive()}")
    times = {"boot": booted, **marks(api, run.name), "trainer": arrived}
    stages = {name: end - begin for (_, begin), (name, end) in itertools.pairwise(times.items())}
    return stages | {"total": arrived - booted}


def first_metric(file: Path, process: Process) -> float:
    """Wait for a step's metric in a file; return the time of seeing it."""

    def seen() -> float:
        steps, _ = read_metrics(file)
        return time.time() if max(steps, default=0) else float(process.must_live())

    return float(wait_until(seen, 120, every=0.01))


def marks(api: httpx.Client, run_id: str) -> dict[str, float]:
    """Return when the run's log said that each stage had ended; the last word counts."""
    wanted = {"flow_run_id": {"any_": [run_id]}}
    body = {"logs": wanted, "limit": 200, "sort": "TIMESTAMP_ASC"}
    rows = api.post("/logs/filter", json=body).raise_for_status().json()
    times: dict[str, float] = {}
    for name, words in MARKS.items():
        found = [row for row in rows if words in row["message"]]
        if not found:
            fail(f"the run's log does not say {words!r}")
        times[name] = datetime.fromisoformat(found[-1]["timestamp"]).timestamp()
    return times


if __name__ == "__main__":
    main()
