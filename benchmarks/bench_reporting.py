"""What reporting to a platform costs a training step, while the platform is down half of the run.

off     the training flow, executed in this process, without any platform set up.
on      the same with metrics and alerts reported, to a receiver that refuses connections until
        half of the steps are done. Every step must be with it at the end, once and in order, or
        this fails.

The receiver runs beside both, so that its own use of the computer is no part of the difference.
The time of a step is that from the first metric to the last, by the number of steps between; its
CPU time is that of the trainer's process alone, which others on the computer disturb less.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

from common import Place, conclude, fail, median, options, place, spread

from trainer.contract.metrics import read_metrics

GOAL = 1.02
HERE = Path(__file__).parent
VARIABLES = ("METRICS_API_URL", "ALERT_API_URL")
Steps = dict[int, dict[str, Any]]


def main() -> None:
    """Measure and print."""
    given = options(__doc__ or "", rounds=5, steps=300)
    arms: dict[str, list[tuple[float, float]]] = {"off": [], "on": []}
    with place() as here:
        here.prefect_server()
        from prefect.logging.handlers import APILogHandler

        for number in range(given.rounds):
            # Whoever comes second meets a warmer computer, so they take turns at that too.
            for arm in ("off", "on") if number % 2 == 0 else ("on", "off"):
                steps = 20 if given.quick else given.steps
                arms[arm].append(milliseconds(asyncio.run(trained(here, arm, steps))))
                wall, cpu = arms[arm][-1]
                print(f"round {number + 1}: {arm:4} {wall:.2f} ms, {cpu:.2f} of CPU", flush=True)
        asyncio.run(APILogHandler.aflush())  # before the server is ended
    for n, kind in enumerate(("step", "cpu")):
        times = {arm: [values[n] for values in arms[arm]] for arm in arms}
        for arm, values in times.items():
            print(f"{kind:4} {arm:4} {spread(values, 'ms')}")
        ratio = median(times["on"]) / median(times["off"])
        conclude(f"reporting_{kind}_time", ratio, "<=", GOAL)


async def trained(here: Place, arm: str, steps: int) -> Steps:
    """Run one job and return its metrics; with reports, check that all arrived."""
    from whole_flow import quickstart_job

    from flows.execute import create_run, execute
    from flows.run_folder import RunFolder

    created = await create_run(quickstart_job(steps))
    metrics = RunFolder(created.id).metrics
    taken = here.folder / f"taken-{created.id}"
    environment = platform(here, taken, metrics, steps // 2)
    if arm == "on":
        os.environ.update(environment)
    try:
        state = await execute(created.id)
    finally:
        for name in VARIABLES:
            os.environ.pop(name, None)
    if not state.is_completed():
        fail(f"The flow run ended as {state.name}: {state.message}")
    found, _ = read_metrics(metrics)
    if arm == "on" and [int(line) for line in taken.read_text().split()] != list(found):
        fail("The receiver does not have every step once and in order.")
    return found


def milliseconds(found: Steps) -> tuple[float, float]:
    """Return the time of a step, and the trainer's CPU time of one."""
    numbers = sorted(found)
    at = [datetime.fromisoformat(found[step]["timestamp"]).timestamp() for step in numbers]
    pairs = list(zip(numbers[1:], at, at[1:], strict=False))
    busy = [found[n].get("cpu_percent", 0.0) / 100 * (end - start) for n, start, end in pairs]
    count = numbers[-1] - numbers[0]
    return 1000 * (at[-1] - at[0]) / count, 1000 * sum(busy) / count


def platform(here: Place, taken: Path, metrics: Path, down_until: int) -> dict[str, str]:
    """Start a receiver and return the environment that names it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, HERE / "moody_platform.py", port, taken, metrics, down_until]
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
