"""Copying a file so that it arrives whole or not at all, and goes on where it was cut short."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event
from typing import BinaryIO, TypeVar

from blocks.machines.base import Transfer
from trainer.errors import DiskFull
from trainer.files import CHUNK, fsync_directory

Result = TypeVar("Result")
PART = ".part"  # what a file is called until it is whole


class Stopped(Exception):
    """The transfer was given up; what arrived is kept."""


def copy_file(source: Path, target: Path, stop: Event) -> Transfer:
    """Copy `source` to `target`, hashing on the way; blocks until done or `stop` is set.

    Raises:
        FileNotFoundError: there is no `source`.
        DiskFull: it does not fit.
        Stopped: `stop` was set.
    """
    with source.open("rb") as reader:
        size = os.fstat(reader.fileno()).st_size
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(target.name + PART)
        try:
            with part.open("a+b") as writer:
                transfer = _fill(reader, writer, size, stop)
        except OSError as error:
            if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
                raise
            free = shutil.disk_usage(target.parent).free
            raise DiskFull(
                f"{target} needs {size} bytes and {free} more are free on its disk."
            ) from error
    part.replace(target)
    fsync_directory(target.parent)
    return transfer


def _fill(reader: BinaryIO, writer: BinaryIO, size: int, stop: Event) -> Transfer:
    """Append to `writer` what it lacks of `reader`, and sync it to disk."""
    if os.fstat(writer.fileno()).st_size > size:  # the rest of something else
        writer.truncate(0)
    digest = hashlib.sha256()
    writer.seek(0)
    for chunk in _chunks(writer, stop):
        digest.update(chunk)
    resumed = total = writer.tell()
    reader.seek(resumed)
    for chunk in _chunks(reader, stop):
        digest.update(chunk)
        total += writer.write(chunk)
    writer.flush()
    os.fsync(writer.fileno())
    return Transfer(bytes=total, sha256=digest.hexdigest(), resumed=resumed)


def _chunks(stream: BinaryIO, stop: Event) -> Iterator[bytes]:
    while chunk := stream.read(CHUNK):
        if stop.is_set():
            raise Stopped
        yield chunk


async def in_thread(work: Callable[[Event], Result]) -> Result:
    """Run `work` off the event loop; when cancelled, set its event and wait until it has ended.

    Without the wait a retry could meet the thread still writing to the same file.
    """
    stop = Event()
    running = asyncio.ensure_future(asyncio.to_thread(work, stop))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        stop.set()
        await asyncio.gather(running, return_exceptions=True)
        raise
