"""The heartbeat of a training, for the watchdog. Standard library only."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Self

INTERVAL = 1.0  # seconds between two beats at least: a step may take a millisecond


class Heartbeat:
    """A file that is there while the model trains, touched at every batch.

    While it exists, a line in the log is not a sign of life: another thread may go on printing
    while the training hangs.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = -INTERVAL

    def __enter__(self) -> Self:
        with suppress(OSError):  # a full disk: then the log counts
            self._path.touch()
        return self

    def __exit__(self, *_: object) -> None:
        # Gone while the output is written: there the lines of the log are the signs of life again.
        self._path.unlink(missing_ok=True)

    def beat(self) -> None:
        """Record that another batch has begun."""
        now = time.monotonic()
        if now - self._at >= INTERVAL:
            self._at = now
            with suppress(OSError):
                # The watchdog looks at the time of modification only; utime writes no data, so it
                # works on a disk without room.
                os.utime(self._path)
