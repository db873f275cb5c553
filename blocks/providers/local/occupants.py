"""Ending the processes that still work in a job directory of this computer."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import psutil

from trainer.contract.job_directory import JobDirectory

TERM_SECONDS = 10.0  # from SIGTERM to SIGKILL
KILL_SECONDS = 5.0  # for the kernel to clear away what was killed
LOOK_SECONDS = 0.1


async def end_occupants(folder: Path) -> bool:
    """End supervisor and trainer of a job directory; return whether none is left.

    The directory's lock says whether a process is there, its status says which.
    """
    directory = JobDirectory(folder)
    groups: set[int] = set()
    for number, seconds in ((signal.SIGTERM, TERM_SECONDS), (signal.SIGKILL, KILL_SECONDS)):
        asked: set[int] = set()
        deadline = time.monotonic() + seconds
        while directory.is_alive() and time.monotonic() < deadline:
            # Asked anew each time: a status that was not written yet may be now.
            for pid in await asyncio.to_thread(_occupants, directory) - asked:
                asked.add(pid)
                # Remembered, because a process that is gone no longer says which group it led.
                groups |= _signal(pid, number)
            await asyncio.sleep(LOOK_SECONDS)
    for group in groups:  # data loaders and the like, which need not hold the lock
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)
    return not directory.is_alive()


def _occupants(directory: JobDirectory) -> set[int]:
    """Return the processes that the status names and that have a file of the folder open.

    A process id alone proves nothing: after a crash or a reboot it may be somebody else's.
    """
    status = directory.read_status()
    named = {pid for pid in (status.pid, status.trainer_pid) if pid and pid != os.getpid()}
    return {pid for pid in named if _has_open(pid, directory.root.resolve())}


def _has_open(pid: int, folder: Path) -> bool:
    with suppress(psutil.Error):
        opened = psutil.Process(pid).open_files()
        # An open log or lock in the folder is what no stranger with a recycled process id would
        # have.
        return any(Path(file.path).is_relative_to(folder) for file in opened)
    return False


def _signal(pid: int, number: signal.Signals) -> set[int]:
    """Signal a process, and its group where it leads one; return the group it leads."""
    with suppress(ProcessLookupError, PermissionError):
        # A process that somebody started from a script shares the script's group.
        if os.getpgid(pid) == pid:
            os.killpg(pid, number)
            return {pid}
        os.kill(pid, number)
    return set()
