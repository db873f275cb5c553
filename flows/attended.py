"""Start the process that executes a run without a terminal or a worker, and see if it is alive.

A mark lies in the folder of such a run from before its process starts until the run is at rest.
The process holds the mark's lock for as long as it lives, so a mark that is not held belongs to a
process that died. Nothing here imports Prefect: `gateway.prefect.attendant` looks at the marks all the
time, and should stay small.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

from blocks.home import private_folder, runs
from flows.locks import is_held
from trainer.contract.flock import flock
from trainer.contract.own_python import own_python

FLOW_LOG = "flow.log"
"""What the process of a run printed."""
MARK = ".process"
LOCK = ".lock"
"""Held by the one process that works on a run, however it was started."""

# Kept: Popen warns when it is garbage-collected while its process runs (ResourceWarning).
_started: list[subprocess.Popen[bytes]] = []


def start_in_background(run_id: UUID, *, asked: bool = False) -> subprocess.Popen[bytes]:
    """Start a process that executes the run, in a session of its own.

    While another process still executes it, the new one waits for the run's lock.

    Args:
        run_id: which.
        asked: whether a person asks for it; otherwise it leaves a run at rest alone.
    """
    with marked(_folder(run_id)) as mark:
        words = [str(run_id), str(mark), *(["asked"] if asked else [])]
        return start_beside(run_id, "flows.background", *words, pass_fds=(mark,))


def start_beside(
    run_id: UUID, module: str, *words: str, pass_fds: Sequence[int] = ()
) -> subprocess.Popen[bytes]:
    """Start a module of ours that outlives this process; what it prints goes to the run's flow.log."""
    with (_folder(run_id) / FLOW_LOG).open("ab") as log:
        process = subprocess.Popen(  # noqa: S603 - our own interpreter
            own_python("-m", module, *words),
            pass_fds=pass_fds,
            # No terminal, no pipe, a session of its own: neither Ctrl-C, nor a hang-up, nor the
            # death of this process reaches it.
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=os.environ,
            start_new_session=True,
        )
    # Those that have ended are let go of, by which the kernel forgets them: a worker lives for weeks.
    _started[:] = [one for one in _started if one.poll() is None] + [process]
    return process


def _folder(run_id: UUID) -> Path:
    return private_folder(runs() / str(run_id))


@contextmanager
def marked(folder: Path) -> Iterator[int]:
    """Mark a run; yields a descriptor by which its process inherits and holds the mark."""
    # flock(2) locks the open file, not the process: a child that inherits the descriptor holds the
    # lock too, and closing it here leaves it with the child, without a moment in between.
    descriptor = hold(folder)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def hold(folder: Path) -> int:
    """Mark a run for as long as this process lives; return the descriptor."""
    while True:
        descriptor = os.open(folder / MARK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        # Shared: a run that is resumed may have two processes for a moment, and the mark must stay
        # until both are gone.
        flock(descriptor, fcntl.LOCK_SH, folder / MARK)
        if os.fstat(descriptor).st_nlink:
            return descriptor
        # It was removed while we waited: nobody would ever see a lock on a file without a name.
        os.close(descriptor)


def unmark(folder: Path, descriptor: int) -> None:
    """Remove the mark of a run at rest, unless another process executes the run by now."""
    # Upgrading our shared lock fails while another process holds one.
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    forget(folder)


def forget(folder: Path) -> None:
    """Remove the mark of a run."""
    (folder / MARK).unlink(missing_ok=True)


def is_marked(folder: Path) -> bool:
    """Whether a process was started to bring the run to rest, and has not done so."""
    return (folder / MARK).exists()


def is_worked_on(folder: Path) -> bool:
    """Whether a process of this computer executes the run now, a worker's or another."""
    return is_held(folder / LOCK) or is_held(folder / MARK)


def is_left(folder: Path) -> bool:
    """Whether that process died."""
    return is_marked(folder) and not is_held(folder / MARK)
