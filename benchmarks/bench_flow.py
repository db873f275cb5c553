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

from common import EXAMPLES, Place, conclude, fail, median, options, place, spread

GOAL = 1.10


def main() -> None:
    """Measure and print."""
    given = options(__doc__ or "", steps=750)
    config = training(20 if given.quick else given.steps)
    alone, flow = [], []
    with place() as here:
        here.prefect_server()
        # Imported when the server's address is known, and before the clock starts.
        import flows.execute  # noqa: F401
        from prefect.logging.handlers import APILogHandler

        for number in range(given.rounds):
            alone.append(seconds_alone(here, config, number))
            flow.append(seconds_in_flow(config))
            print(f"round {number + 1}: alone {alone[-1]:.2f} s, flow {flow[-1]:.2f} s", flush=True)
        asyncio.run(APILogHandler.aflush())  # before the server is ended
    print(f"alone {spread(alone)}")
    print(f"flow  {spread(flow)}")
    conclude("flow_wall_time", median(flow) / median(alone), "<=", GOAL)


def training(steps: int) -> dict[str, Any]:
    """Return the training config: the quickstart's data and model, evaluated as it is."""
    return {
        "model": str(EXAMPLES / "tiny-llama"),
        "dataset": {"path": str(EXAMPLES / "quickstart.jsonl"), "eval_fraction": 0.1},
        "peft": {"r": 64, "lora_alpha": 128},
        "max_steps": steps,
        "max_length": 256,
        "learning_rate": 5e-3,
    }


def seconds_alone(here: Place, config: dict[str, Any], number: int) -> float:
    """Return how long the trainer takes without the flow."""
    job = here.job_directory(f"alone-{number}", config)
    began = time.monotonic()
    here.python("-m", "trainer", job.root)
    return time.monotonic() - began


def seconds_in_flow(config: dict[str, Any]) -> float:
    """Return how long the flow takes from its creation to its final state."""
    from flows.execute import create_run, execute
    from trainer.config import TrainingJob

    job = TrainingJob.model_validate(
        {
            "name": "bench",
            "resources": {"gpu_count": 0, "cpu_threads": 1},
            "training": config,
        }
    )

    async def work() -> Any:
        created = await create_run(job)
        return await execute(created.id)

    began = time.monotonic()
    state = asyncio.run(work())
    seconds = time.monotonic() - began
    if not state.is_completed():
        fail(f"The flow run ended as {state.name}: {state.message}")
    return seconds


if __name__ == "__main__":
    main()
