"""A whole flow run in this process. As a program, `whole_flow.py STEPS`, it tells its peak memory.

See bench_flow and bench_memory. The last line printed is a JSON object.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
from typing import Any

from common import EXAMPLES

from flows.execute import create_run, execute
from trainer.config import TrainingJob


def quickstart_job(steps: int) -> TrainingJob:
    """Return the quickstart's job, cut to this many steps, on one thread of the CPU."""
    return TrainingJob.model_validate(
        {
            "name": "bench",
            "resources": {"gpu_count": 0, "cpu_threads": 1},
            "training": {
                "model": str(EXAMPLES / "tiny-llama"),
                "dataset": {"path": str(EXAMPLES / "quickstart.jsonl"), "eval_fraction": 0.1},
                "peft": {"r": 64, "lora_alpha": 128},
                "max_steps": steps,
                "max_length": 256,
                "learning_rate": 5e-3,
            },
        }
    )


async def run(job: TrainingJob) -> Any:
    """Create a flow run, execute it here, and return its final state."""
    created = await create_run(job)
    return await execute(created.id)


def main() -> None:
    """Run and tell."""
    state = asyncio.run(run(quickstart_job(int(sys.argv[1]))))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"state": state.name, "peak_kib": peak, "torch": "torch" in sys.modules}))


if __name__ == "__main__":
    main()
