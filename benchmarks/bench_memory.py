"""Peak memory of the process that runs the flow, against a process that only imports Prefect.

flow     a fresh process that creates a flow run and executes it to its end, training and all (the
         trainer is another process).
noisy    a fresh process that mirrors and ships a log of 2,000 lines a second for a minute.
import   a fresh `python -c "import prefect"`.

The peak is `ru_maxrss`, as each process reads its own at its end. This process stays small, for
Linux counts into a child's peak what its parent had at the fork. None may import torch.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from common import Place, conclude, fail, median, options, place, wait_until

GOAL = 1.5
LINES_PER_SECOND = 2000
HERE = Path(__file__).parent
IMPORT = """
import prefect
import json, resource
print(json.dumps({"peak_kib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, "torch": False}))
"""


def main() -> None:
    """Measure and print."""
    given = options(__doc__ or "", steps=60, seconds=60.0)
    steps, seconds = (10, 5.0) if given.quick else (given.steps, given.seconds)
    peaks: dict[str, list[float]] = {"import": [], "flow": [], "noisy": []}
    with place() as here:
        here.prefect_server()
        for _ in range(given.rounds):
            peaks["import"].append(mebibytes(here.python("-c", IMPORT)))
            peaks["flow"].append(mebibytes(here.python(HERE / "whole_flow.py", steps)))
        peaks["noisy"].append(mebibytes(shipped(here, seconds)))
    for name, values in peaks.items():
        ratio = median(values) / median(peaks["import"])
        print(f"{name:7} {median(values):6.1f} MiB  × {ratio:.2f}")
    conclude(
        "orchestrator_peak_memory", median(peaks["flow"]) / median(peaks["import"]), "<=", GOAL
    )


def mebibytes(printed: str) -> float:
    """Return the peak that a process told in its last line; end the benchmark if it had torch."""
    record = json.loads(printed.splitlines()[-1])
    if record["torch"]:
        fail("The flow's process imported torch.")
    if record.get("state", "Completed") != "Completed":
        fail(f"The flow run ended as {record['state']}:\n{printed[-3000:]}")
    return float(record["peak_kib"]) / 1024


def shipped(here: Place, seconds: float) -> str:
    """Ship a noisy log and return what the process told of itself."""
    source, result = here.folder / "train.log", here.folder / "result.json"
    source.touch()
    shipping = here.start([sys.executable, HERE / "shipping.py", source, result], "shipping.log")
    wait_until(lambda: result.with_suffix(".run").exists() or shipping.must_live(), 120)
    here.python(HERE / "flood.py", source, LINES_PER_SECOND, seconds)
    source.with_suffix(".done").touch()
    shipping.finished()
    return result.read_text()


if __name__ == "__main__":
    main()
