"""From the start of a supervisor to the first step: forked by a warm process, against a new one.

Both train the same tiny job in turns, and must write the same weights.
"""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

from common import EXAMPLES, conclude, fail, median, options, place, spread, wait_until

from trainer.supervision import warm

CONFIG = {
    "model": str(EXAMPLES / "tiny-llama"),
    "dataset": {"path": str(EXAMPLES / "quickstart.jsonl")},
    "max_steps": 2,
    "max_length": 64,
    "report_to": [],
}


def main() -> None:
    """Measure, and print the ratio."""
    given = options(__doc__ or "", rounds=7)
    took: dict[str, list[float]] = {"new": [], "warm": []}
    weights = set()
    with place() as here:
        # The first start of the warm process is not what is measured.
        for n in range(-1, given.rounds):
            for kind in took:
                job = here.job_directory(f"{kind}{n}", CONFIG)
                settings = {warm.SECONDS: "60"} if kind == "warm" else {}
                began = time.monotonic()
                here.python("-m", "trainer", "--detach", job.root, **settings)
                wait_until(
                    lambda job=job: job.metrics.exists() or job.read_status().finished_at, 120
                )
                seconds = time.monotonic() - began
                wait_until(lambda job=job: not job.is_alive(), 120)
                if job.read_status().state != "completed":
                    fail(job.log.read_text())
                weights.add(digest(job.output / "adapter_model.safetensors"))
                if n >= 0:
                    took[kind].append(seconds)
    for kind, seconds in took.items():
        print(f"{kind:5} {spread(seconds)} s")
    if len(weights) != 1:
        fail("the weights differ")
    conclude("warm_start", median(took["new"]) / median(took["warm"]), ">=", 2.0)


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    main()
