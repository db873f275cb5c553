"""Many jobs on rented machines in one process: `fleet.py COUNT SECONDS RESULT`.

It writes the runs' ids to RESULT.runs, and at its end what it cost to RESULT. See
bench_remote_fleet.
"""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import sys
import time
from pathlib import Path
from typing import Any
from uuid import UUID

from common import EXAMPLES

from flows.execute import create_run, execute
from trainer.config import TrainingJob

STAND_IN = Path(__file__).with_name("stand_in.py")
FIND = "python -c 'import trainer; print(trainer.__path__[0])'"


def light_job(number: int, seconds: float) -> TrainingJob:
    """Return a job whose machine trains nothing for so many seconds."""
    return TrainingJob.model_validate(
        {
            "name": f"fleet-{number}",
            "provider": "runpod",
            "resources": {"gpu_count": 0},
            "setup": [f'cp {shlex.quote(str(STAND_IN))} "$({FIND})/train.py"'],
            "training": {
                "model": str(EXAMPLES / "tiny-llama"),
                "dataset": str(EXAMPLES / "quickstart.jsonl"),
                "max_steps": round(seconds),
            },
        }
    )


async def run(count: int, seconds: float, result: Path) -> dict[str, Any]:
    """Execute all jobs at once, and return what that took."""
    runs = [(await create_run(light_job(number, seconds))).id for number in range(count)]
    result.with_suffix(".runs").write_text(json.dumps([str(run_id) for run_id in runs]))
    cpu, began = time.process_time(), time.monotonic()
    states = await asyncio.gather(*(ended(run_id) for run_id in runs))
    return {
        "cpu": time.process_time() - cpu,
        "wall": time.monotonic() - began,
        "unfinished": [state for state in states if state],
    }


async def ended(run_id: UUID) -> str:
    """Execute a run; return nothing when it is completed, else what became of it."""
    state = await execute(run_id)
    return "" if state.is_completed() else f"{run_id} {state.name}: {state.message}"


def peak_mebibytes() -> float:
    """Return the most memory that was resident; `ru_maxrss` would count a parent's at the fork."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) / 1024


def main(count: int, seconds: float, result: Path) -> None:
    """Run and tell."""
    record = asyncio.run(run(count, seconds, result))
    record |= {"peak_mebibytes": peak_mebibytes(), "torch": "torch" in sys.modules}
    result.write_text(json.dumps(record))


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]), Path(sys.argv[3]))
