"""Locks between processes: a file that one of them holds, free when it dies.

Where the file cannot be made, because the disk is full to its last inode or read-only, one in memory
takes its place: a machine must be given back on such a computer too.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

from trainer.contract.files import NO_ROOM
from trainer.contract.flock import flock

MEMORY = Path("/dev/shm")  # noqa: S108 - with a folder of our own in it
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
    descriptor = _opened(path)
    held = False
    try:
        held = _take(descriptor, path)
        # Here, because it takes 8 MB, and a process that only calls `is_held` does without it.
        import asyncio

        while wait and not held:
            await asyncio.sleep(LOOK_SECONDS)
            held = _take(descriptor, path)
    finally:
        if not held:
            os.close(descriptor)
    return descriptor if held else None


@contextmanager
def briefly_locked(path: Path) -> Iterator[None]:
    """Hold the lock of a file for an instant, such as to read another file and replace it."""
    descriptor = _opened(path)
    try:
        flock(descriptor, fcntl.LOCK_EX, path)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def locked_now(path: Path) -> Iterator[bool]:
    """Hold the lock of a file if nobody else does; yields whether it is held."""
    descriptor = _opened(path)
    try:
        yield _take(descriptor, path)
    finally:
        os.close(descriptor)


def is_held(path: Path) -> bool:
    """Whether a process holds the lock of a file now."""
    # By trying to take it: for that instant another process that tries finds it held.
    for place in (path, _in_memory(path)):
        try:
            # Read-only, which locks as well, and which a disk without room allows.
            descriptor = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            if not _take(descriptor, place):
                return True
        finally:
            os.close(descriptor)
    return False


def _opened(path: Path) -> int:
    """Return a descriptor of the file by which the lock is held; it is made where need be."""
    flags = os.O_CLOEXEC | os.O_CREAT
    try:
        return os.open(path, os.O_RDWR | flags, 0o600)
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
    with suppress(FileNotFoundError):
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    place = _in_memory(path)
    place.parent.mkdir(mode=0o700, exist_ok=True)
    if place.parent.stat().st_uid != os.getuid():
        raise PermissionError(errno.EACCES, "somebody else has made it", str(place.parent))
    return os.open(place, os.O_RDWR | flags, 0o600)


def _in_memory(path: Path) -> Path:
    name = hashlib.sha256(str(path.absolute()).encode()).hexdigest()
    return MEMORY / f"training-orchestrator-{os.getuid()}" / name


def _take(descriptor: int, path: Path) -> bool:
    try:
        flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, path)
    except BlockingIOError:
        return False
    return True
