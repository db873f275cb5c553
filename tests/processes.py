"""Look at processes that may end at any moment: the one that has gone is no error."""

from __future__ import annotations

from collections.abc import Iterable

import psutil


def is_running(pid: int) -> bool:
    """Whether a process does anything; a zombie that waits for its reaper does not."""
    try:
        return psutil.Process(pid).status() not in {psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD}
    except psutil.NoSuchProcess:
        return False


def command_lines(pids: Iterable[int]) -> dict[int, list[str]]:
    """Return the words of the command of each process that is still there, by process id."""
    lines = {}
    for pid in pids:
        try:
            lines[pid] = psutil.Process(pid).cmdline()
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return lines
