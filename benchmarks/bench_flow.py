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
from typing import Any

from common import Place, conclude, fail, median, options, place, spread

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
            alone.append(seconds_alone(here, f"alone-{number}", job.training.model_dump()))
            began = time.monotonic()
            state = asyncio.run(run(job))
            flow.append(time.monotonic() - began)
            if not state.is_completed():
                fail(f"The flow run ended as {state.name}: {state.message}")
            print(f"round {number + 1}: alone {alone[-1]:.2f} s, flow {flow[-1]:.2f} s", flush=True)
        asyncio.run(APILogHandler.aflush())  # before the server is ended
    print(f"alone {spread(alone)}")
    print(f"flow  {spread(flow)}")
    conclude("flow_wall_time", median(flow) / median(alone), "<=", GOAL)


def seconds_alone(here: Place, name: str, config: dict[str, Any]) -> float:
    """Return how long the trainer takes without the flow."""
    job = here.job_directory(name, config)
    began = time.monotonic()
    here.python("-m", "trainer", job.root)
    return time.monotonic() - began


if __name__ == "__main__":
    main()
