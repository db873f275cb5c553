"""Trains a job and notes how long training waits for each save, for bench_saving.py."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from trainer.engine import saving
from trainer.training import train


class SaveClock(TrainerCallback):  # type: ignore[misc] # transformers is not checked
    """Notes the seconds of every save, and those from the first step to the process's end."""

    def __init__(self) -> None:
        self.waits: list[float] = []
        self._step_ended = 0.0
        self._began = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begin."""
        self._began = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Remember when."""
        self._step_ended = time.perf_counter()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Training goes on from here."""
        self.waits.append(time.perf_counter() - self._step_ended)

    def write(self) -> None:
        """Write the file; when the training is over, the last save is, too."""
        found = {"waits": self.waits, "seconds": time.perf_counter() - self._began}
        Path(os.environ["SAVE_CLOCK"]).write_text(json.dumps(found))


class ClockedCopies(saving.Copies):
    """Adds to a save's time what the optimizer waits for its copies."""

    def wait(self) -> None:
        """Wait, and note how long."""
        began = time.perf_counter()
        super().wait()
        if clock.waits:
            clock.waits[-1] += time.perf_counter() - began


if __name__ == "__main__":
    clock = SaveClock()
    # Not as the job's own callback: one that may change weights is waited for with the copies.
    train.load_callbacks = lambda _: [clock]
    saving.Copies = ClockedCopies  # type: ignore[misc]
    code = train.main(sys.argv[1])
    clock.write()
    sys.exit(code)
