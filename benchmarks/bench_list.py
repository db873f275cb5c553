"""CPU seconds of the commands that only look, against `import prefect` alone.

A server with 200 jobs, each with a table of metrics as a finished training leaves it; every
command is a process of its own, and its user and system time is what counts. The last line is the
time of `import prefect` divided by that of `trainctl list`, measured in turns.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
from common import Place, conclude, fail, median, options, place, spread, wait_until

TRAINCTL = Path(sys.executable).with_name("trainctl")
JOBS = 200
ROWS = 120  # as many as a run's table of metrics holds


def main() -> None:
    """Measure and print."""
    given = options(__doc__ or "", rounds=7, jobs=JOBS)
    with place() as here:
        run_id = fill(here.prefect_server(), given.jobs)
        commands = {
            "import prefect": [sys.executable, "-c", "import prefect"],
            "trainctl list": [TRAINCTL, "list"],
            "trainctl list --limit 200 --json": [TRAINCTL, "list", "--limit", 200, "--json"],
            "trainctl status ID": [TRAINCTL, "status", run_id],
            "trainctl monitor ID": [TRAINCTL, "monitor", run_id],
            "trainctl logs ID": [TRAINCTL, "logs", run_id],
        }
        spent: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(given.rounds):
            for name, command in commands.items():
                spent[name].append(cpu_seconds(here, [str(word) for word in command]))
    for name, seconds in spent.items():
        print(f"{name:<34}{spread(seconds)}", flush=True)
    ratio = median(spent["import prefect"]) / median(spent["trainctl list"])
    conclude("list_cpu", ratio, ">=", 3.0)


def fill(url: str, count: int) -> str:
    """Make so many completed jobs with metrics and return the last one's id."""
    row = {"total_steps": ROWS, "train_loss": 1.234567, "eval_loss": None, "learning_rate": 1e-4}
    table = json.dumps([{"step": step, **row} for step in range(1, ROWS + 1)])
    run_id = ""
    with httpx.Client(base_url=url, timeout=60) as api:
        flow = made(api, "/flows/", name="train")
        for number in range(count):
            state = {"type": "COMPLETED"}
            run_id = made(api, "/flow_runs/", flow_id=flow, name=f"job-{number}", state=state)
            metrics = {"key": "training-metrics", "type": "table", "data": table}
            made(api, "/artifacts/", **metrics, flow_run_id=run_id)
    return run_id


def made(api: httpx.Client, path: str, **values: Any) -> str:
    """Create something and return its id; a server that is busy (503) is asked again."""

    def answer() -> Any:
        found = api.post(path, json=values)
        return None if found.status_code == 503 else found.raise_for_status().json()["id"]

    return str(wait_until(answer, 60))


def cpu_seconds(here: Place, command: list[str]) -> float:
    """Run a command to its end and return its user and system time."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        command, env=here.environment, capture_output=True, text=True, check=False
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        fail(f"{command}: exit code {done.returncode}\n{done.stderr}")
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


if __name__ == "__main__":
    main()
