"""A callback that notes how long training waits for each save, for bench_saving.py."""

from __future__ import annotations

import atexit
import json
import os
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback


class SaveClock(TrainerCallback):  # type: ignore[misc] # transformers is not checked
    """Writes the seconds of every save, and those from the first step to the process's end."""

    def __init__(self) -> None:
        self._waits: list[float] = []
        self._step_ended = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begin; the end is that of the process, for the last save is over by then."""
        atexit.register(self._write, time.perf_counter())

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Remember when."""
        self._step_ended = time.perf_counter()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Training goes on from here."""
        self._waits.append(time.perf_counter() - self._step_ended)

    def _write(self, began: float) -> None:
        found = {"waits": self._waits, "seconds": time.perf_counter() - began}
        Path(os.environ["SAVE_CLOCK"]).write_text(json.dumps(found))
