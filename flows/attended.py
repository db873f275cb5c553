"""Which runs are executed here without a worker, and whether their process is alive.

A mark lies in the folder of such a run from before its process starts until the run is at rest.
The process holds the mark's lock for as long as it lives, so a mark that nobody holds is that of a
process that died. Standard library only: `gateway.attendant` looks at the marks again and again.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flows.locks import is_held

MARK = ".process"
LOCK = ".lock"
"""Held by the one process that works on a run, whoever started it."""


@contextmanager
def marked(folder: Path) -> Iterator[int]:
    """Mark a run; yields a descriptor that its process inherits, and holds the mark by."""
    descriptor = _hold(folder / MARK)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _hold(path: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_SH)  # a run that goes on may have two for a moment
        if os.fstat(descriptor).st_nlink:
            return descriptor
        os.close(descriptor)  # it was removed while we waited


def unmark(folder: Path, descriptor: int) -> None:
    """Say that the run is at rest; unless another process executes it by now."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    forget(folder)


def forget(folder: Path) -> None:
    """Remove the mark of a run."""
    (folder / MARK).unlink(missing_ok=True)


def is_marked(folder: Path) -> bool:
    """Whether a process was to bring the run to its rest, and has not."""
    return (folder / MARK).exists()


def is_worked_on(folder: Path) -> bool:
    """Whether a process of this computer executes the run now, a worker's or another."""
    return is_held(folder / LOCK) or is_held(folder / MARK)


def is_left(folder: Path) -> bool:
    """Whether that process died."""
    return is_marked(folder) and not is_held(folder / MARK)
