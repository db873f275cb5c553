"""A few steps of the real training, to know how long the others will take."""

from __future__ import annotations

import json
import time
from datetime import datetime
from pathlib import Path

from trainer.config import TrainingConfig
from trainer.contract.errors import TrainingFailed
from trainer.contract.job_directory import JobDirectory, JobState
from trainer.contract.metrics import read_metrics
from trainer.engine.control import ControlReader
from trainer.training.train import train

STEPS = 10  # the first is warm-up
LONGEST_SECONDS = 20.0  # then what was measured must do
ROWS = 500


class Hurry(ControlReader):
    """Ends a training after a number of seconds."""

    def __init__(self, directory: JobDirectory, seconds: float) -> None:
        super().__init__(directory)
        self._deadline = time.monotonic() + seconds

    def end_state(self) -> JobState | None:
        """Return stopped when the time is over."""
        return JobState.STOPPED if time.monotonic() > self._deadline else None


def seconds_per_step(config: TrainingConfig, folder: Path) -> float:
    """Train a few steps on some of the rows, and return the seconds of one optimizer step.

    Args:
        config: the job's settings.
        folder: where a job directory is made; nothing is there yet.

    Raises:
        OrchestratorError: what would have ended the job, too.
    """
    folder.mkdir()
    directory = JobDirectory(folder)
    unevaluated = config.dataset.with_each(eval_fraction=0.0, eval_path=None, eval_split=None)
    short = config.model_copy(
        update={
            "dataset": unevaluated.with_at_most(ROWS),
            "max_steps": STEPS,
            # Never: the time of a checkpoint is not that of a step.
            "save_steps": 10 * STEPS,
            "logging_steps": 1,
            "early_stopping_patience": None,
            "report_to": [],
            "parallelism": "ddp",  # one process tries it
        }
    )
    directory.job.write_text(json.dumps({"config": short.model_dump(mode="json")}))
    train(directory, Hurry(directory, LONGEST_SECONDS))
    steps, _ = read_metrics(directory.metrics)
    # The first logged step ends the warm-up, so n steps give n - 1 intervals.
    times = [datetime.fromisoformat(steps[step]["timestamp"]) for step in sorted(steps)]
    if len(times) < 2:
        raise TrainingFailed("fewer than two steps finished in time")
    return (times[-1] - times[0]).total_seconds() / (len(times) - 1)
