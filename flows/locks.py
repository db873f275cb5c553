"""Locks between processes: a file that one of them holds, free when it dies."""

from __future__ import annotations

import fcntl
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

LOOK_SECONDS = 0.2  # a lock rings no bell


@asynccontextmanager
async def locked(path: Path, *, wait: bool = True) -> AsyncIterator[bool]:
    """Hold the lock of a file; yields whether it is held, which with `wait` it is.

    Waiting leaves the event loop to others: two coroutines of one process may wait for each other.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        held = _take(descriptor)
        import asyncio  # who only asks whether a lock is held does without it: it takes 8 MB

        while wait and not held:
            await asyncio.sleep(LOOK_SECONDS)
            held = _take(descriptor)
        yield held
    finally:
        os.close(descriptor)


def is_held(path: Path) -> bool:
    """Whether a process holds the lock of a file now."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return not _take(descriptor)
    finally:
        os.close(descriptor)


def _take(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
