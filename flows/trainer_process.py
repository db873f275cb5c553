"""Ask the trainer something about a job, in a process of its own, on this computer."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from flows.setup.staging import staged_job
from trainer.config import TrainingJob
from trainer.contract.errors import TrainingFailed, from_dict
from trainer.contract.own_python import own_python

PATIENCE_SECONDS = 900


def ask_trainer(what: str, job: TrainingJob, *words: str) -> dict[str, Any]:
    """Return the JSON object that `python -m trainer.training.WHAT JOB.json WORDS` prints. It blocks.

    Raises:
        OrchestratorError: the job is wrong, or the question has no answer.
    """
    job = staged_job(job)
    threads = job.resources.cpu_threads
    environment = {**os.environ, **({"OMP_NUM_THREADS": str(threads)} if threads else {})}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "job.json"
        path.write_text(job.model_dump_json(), encoding="utf-8")
        # A process, because torch takes seconds and gigabytes, and this one may live for days.
        try:
            done = subprocess.run(  # noqa: S603 - our own interpreter
                own_python("-m", f"trainer.training.{what}", str(path), *words),
                env=environment,
                capture_output=True,
                text=True,
                timeout=PATIENCE_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise TrainingFailed(f"The {what} took over {PATIENCE_SECONDS} s.") from None
    try:
        # The last line: libraries print what they like before it.
        facts: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    except (ValueError, IndexError):
        reason = (done.stderr.strip().splitlines() or ["it printed nothing"])[-1]
        raise TrainingFailed(f"The {what} failed: {reason}.", "Run the job to see more.") from None
    if "class" in facts:
        raise from_dict(facts)
    return facts
