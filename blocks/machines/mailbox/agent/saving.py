"""What is said on a machine when it is taken back, and whether a job is worked on there."""

from __future__ import annotations

import contextlib
import fcntl
from pathlib import Path

TAKEN_BACK = "taken-back"
"""The file by whose appearance the supervisors hear of it; see `NOTICE_COMMAND` of the package above."""


def jobs(base: Path) -> list[Path]:
    """Return the job directories."""
    return sorted((base / "jobs").glob("*"))


def at_work(base: Path) -> bool:
    """Whether a job is being worked on: its supervisor or trainer holds the lock."""
    for job in jobs(base):
        with contextlib.suppress(OSError), (job / ".lock").open() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
    return False


def say_taken_back(base: Path) -> None:
    """Let every supervisor know, so that a checkpoint is saved at once."""
    with contextlib.suppress(OSError):  # a disk that is full saves nothing either
        (base / TAKEN_BACK).touch()
