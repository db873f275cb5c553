"""What reporting to a platform costs a training step, while the platform is down half of the time.

off     the training flow, executed in this process, without any platform set up.
on      the same with metrics and alerts reported, to a receiver that refuses connections for five
        seconds, listens for five, and so on. Every step must be with it at the end, once and in
        order, or this fails.

The time of a step is that from the first metric to the last, by the number of steps between.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from datetime import datetime
from pathlib import Path

from common import Place, conclude, fail, median, options, place, spread

from trainer.metrics import read_metrics

GOAL = 1.02
MOOD_SECONDS = 5.0
HERE = Path(__file__).parent


def main() -> None:
    """Measure and print."""
    given = options(__doc__ or "", rounds=5, steps=300)
    times: dict[str, list[float]] = {"off": [], "on": []}
    with place() as here:
        here.prefect_server()
        from prefect.logging.handlers import APILogHandler

        for number in range(given.rounds):
            # Whoever comes second meets a warmer computer, so they take turns at that too.
            for arm in ("off", "on") if number % 2 == 0 else ("on", "off"):
                steps = 20 if given.quick else given.steps
                times[arm].append(step_milliseconds(here, arm, number, steps))
                print(f"round {number + 1}: {arm:4} {times[arm][-1]:.2f} ms a step", flush=True)
        asyncio.run(APILogHandler.aflush())  # before the server is ended
    for arm, values in times.items():
        print(f"{arm:4} {spread(values, 'ms a step')}")
    conclude("reporting_step_time", median(times["on"]) / median(times["off"]), "<=", GOAL)


def step_milliseconds(here: Place, arm: str, number: int, steps: int) -> float:
    """Run one job and return how long a step took; with reports, check that all arrived."""
    from whole_flow import quickstart_job, run

    taken = here.folder / f"taken-{number}"
    if arm == "on":
        os.environ.update(platform(here, taken))
    try:
        state = asyncio.run(run(quickstart_job(steps)))
    finally:
        for name in ("METRICS_API_URL", "ALERT_API_URL"):
            os.environ.pop(name, None)
    if not state.is_completed():
        fail(f"The flow run ended as {state.name}: {state.message}")
    found, _ = read_metrics(
        here.home / "runs" / str(state.state_details.flow_run_id) / "metrics.jsonl"
    )
    if arm == "on" and [int(line) for line in taken.read_text().split()] != list(found):
        fail("The receiver does not have every step once and in order.")
    at = [datetime.fromisoformat(found[step]["timestamp"]) for step in (min(found), max(found))]
    return 1000 * (at[1] - at[0]).total_seconds() / (max(found) - min(found))


def platform(here: Place, taken: Path) -> dict[str, str]:
    """Start a receiver and return the environment that names it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, HERE / "moody_platform.py", port, taken, MOOD_SECONDS]
    here.start(command, "platform.log")
    return {
        "METRICS_API_URL": f"http://127.0.0.1:{port}/metrics",
        "JOB_TOKEN": "token",
        "ALERT_API_URL": f"http://127.0.0.1:{port}/alerts",
        "INTERNAL_API_KEY": "key",
        "USER_ID": "user",
    }


if __name__ == "__main__":
    main()
