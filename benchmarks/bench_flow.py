"""What the flow adds to a training of about a minute: wall time of both, the same job.

alone   `python -m trainer JOBDIR`, from its start to its end.
flow    the training flow, executed in this process against a Prefect server that runs already:
        from creating the flow run to its final state, with place, provision, install, streaming,
        download, verification and teardown. Importing Prefect comes before.

Both start one trainer process of the same kind, which takes about ten seconds to import torch.
"""

from __future__ import annotations

import asyncio
import time
from datetime import datetime
from pathlib import Path

from common import conclude, fail, median, options, place, spread

from trainer.contract.metrics import read_metrics

GOAL = 1.10


def main() -> None:
    """Measure and print."""
    given = options(__doc__ or "", steps=500)
    alone, flow = [], []
    with place() as here:
        here.prefect_server()
        # Prefect reads the server's address when it is imported; the clock starts later.
        from prefect.logging.handlers import APILogHandler
        from whole_flow import quickstart_job, run

        job = quickstart_job(20 if given.quick else given.steps)
        for number in range(given.rounds):
            directory = here.job_directory(f"alone-{number}", job.training.model_dump())
            began = time.monotonic()
            here.python("-m", "trainer", directory.root)
            alone.append(time.monotonic() - began)
            tell(number, "alone", alone[-1], directory.metrics)

            began = time.monotonic()
            state = asyncio.run(run(job))
            flow.append(time.monotonic() - began)
            if not state.is_completed():
                fail(f"The flow run ended as {state.name}: {state.message}")
            mirror = here.home / "runs" / str(state.state_details.flow_run_id)
            tell(number, "flow", flow[-1], mirror / "metrics.jsonl")
        asyncio.run(APILogHandler.aflush())  # before the server is ended
    print(f"alone {spread(alone)}")
    print(f"flow  {spread(flow)}")
    conclude("flow_wall_time", median(flow) / median(alone), "<=", GOAL)


def tell(number: int, arm: str, seconds: float, metrics: Path) -> None:
    """Print one arm's time, and how much of it lies between the first metric and the last.

    Only what lies outside can be the flow's own; the inside tells how busy the computer was.
    """
    steps, _ = read_metrics(metrics)
    times = [datetime.fromisoformat(record["timestamp"]) for record in steps.values()]
    inside = (max(times) - min(times)).total_seconds()
    print(f"round {number + 1}: {arm:5} {seconds:6.2f} s, steps {inside:6.2f} s", flush=True)


if __name__ == "__main__":
    main()
