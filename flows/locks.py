"""Locks between processes: a file that one of them holds, free when it dies."""

from __future__ import annotations

import fcntl
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

LOOK_SECONDS = 0.2  # between two tries: nothing announces that a lock is free


@asynccontextmanager
async def locked(path: Path, *, wait: bool = True) -> AsyncIterator[bool]:
    """Hold the lock of a file; yields whether it is held, which with `wait` is always so.

    Waiting leaves the event loop free, so that the holder may be another coroutine of this process.
    """
    descriptor = await taken(path, wait=wait)
    try:
        yield descriptor is not None
    finally:
        if descriptor is not None:
            os.close(descriptor)


async def taken(path: Path, *, wait: bool = True) -> int | None:
    """Take the lock of a file until the descriptor that is returned is closed; None: it is held."""
    # The file is never removed: a process that waits for it would then hold a file without a name,
    # and another would lock a new one. It is closed on exec, so that no child keeps the lock.
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    held = False
    try:
        held = _take(descriptor)
        # Here, because it takes 8 MB, and a process that only calls `is_held` does without it.
        import asyncio

        while wait and not held:
            await asyncio.sleep(LOOK_SECONDS)
            held = _take(descriptor)
    finally:
        if not held:
            os.close(descriptor)
    return descriptor if held else None


@contextmanager
def briefly_locked(path: Path) -> Iterator[None]:
    """Hold the lock of a file for an instant, such as to read another file and replace it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def is_held(path: Path) -> bool:
    """Whether a process holds the lock of a file now."""
    # By trying to take it: for that instant another process that tries finds it held.
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
