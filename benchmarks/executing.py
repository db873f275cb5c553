"""Execute one whole flow run in this fresh process, and print its peak memory: `executing.py STEPS`.

See bench_memory. The last line printed is a JSON object.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
from typing import Any

from bench_flow import training
from flows.execute import create_run, execute
from trainer.config import TrainingJob


async def run(steps: int) -> Any:
    """Create a flow run and execute it to its final state."""
    job = TrainingJob.model_validate(
        {
            "name": "bench",
            "resources": {"gpu_count": 0, "cpu_threads": 1},
            "training": training(steps),
        }
    )
    created = await create_run(job)
    return await execute(created.id)


def main() -> None:
    """Run and tell."""
    state = asyncio.run(run(int(sys.argv[1])))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"state": state.name, "peak_kib": peak, "torch": "torch" in sys.modules}))


if __name__ == "__main__":
    main()
