"""Putting a file together so that it arrives whole or not at all, and resumes where it was cut."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Event
from typing import BinaryIO

from blocks.machines.base import Transfer
from trainer.contract.errors import DiskFull, HomeDiskFull, IntegrityError
from trainer.contract.files import CHUNK, fsync_directory

PART = ".part"  # what a file is called until it is whole


class Stopped(Exception):
    """The transfer was given up; what arrived is kept."""


class Part:
    """What has arrived of a file on this computer, hashed as it comes."""

    def __init__(self, target: Path) -> None:
        self.path = target.with_name(target.name + PART)
        self.size = 0
        """Bytes that are there."""
        self.resumed = 0
        """How many of them were there before."""
        self._target = target
        self._digest = hashlib.sha256()
        self._stream: BinaryIO | None = None

    def open(self, size: int, stop: Event) -> None:
        """Go on with what is there, or begin anew when that is longer than `size`.

        Raises:
            HomeDiskFull: `size` bytes do not fit.
            Stopped: `stop` was set.
        """
        self._target.parent.mkdir(parents=True, exist_ok=True)
        # In append mode writes go to the end, wherever the hashing below leaves the position.
        self._stream = self.path.open("a+b")
        if os.fstat(self._stream.fileno()).st_size > size:  # the rest of something else
            self._stream.truncate(0)
        self._stream.seek(0)
        # Hashed again although an earlier transfer hashed it: what lies on the disk is what
        # counts, and it may be from before a crash.
        for chunk in chunks(self._stream, stop):
            self._digest.update(chunk)
        self.size = self.resumed = self._stream.tell()
        if size - self.size > shutil.disk_usage(self._target.parent).free:
            raise self._full(size)

    def append(self, chunk: bytes) -> None:
        """Add more bytes.

        Raises:
            OSError: they cannot be written.
        """
        assert self._stream  # noqa: S101 - it was opened
        self._digest.update(chunk)
        self.size += self._stream.write(chunk)

    def finish(self) -> Transfer:
        """Put the file at its place, synced to disk."""
        assert self._stream  # noqa: S101 - it was opened
        # Content, then name, then folder. In another order a crash could leave the final name on a
        # file whose content never reached the disk.
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._stream.close()
        self.path.replace(self._target)
        fsync_directory(self._target.parent)
        return Transfer(bytes=self.size, sha256=self._digest.hexdigest(), resumed=self.resumed)

    def close(self) -> None:
        """Keep what arrived for a later transfer."""
        if self._stream:
            self._stream.close()

    @contextmanager
    def filling(self, size: int) -> Iterator[None]:
        """Close it at the end, and report a full disk with both sizes."""
        try:
            with closing(self):
                yield
        except OSError as error:
            # A quota that is used up (EDQUOT) is a full disk to the person who has to make room.
            if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
                raise
            raise self._full(size) from error

    def _full(self, size: int) -> HomeDiskFull:
        free = shutil.disk_usage(self._target.parent).free
        return HomeDiskFull(disk_full(str(self._target), size, free).message)


def copy_file(source: Path, target: Path, stop: Event, *, limit: int | None = None) -> Transfer:
    """Copy `source` to `target`, hashing on the way; blocks until done or `stop` is set.

    Raises:
        FileNotFoundError: there is no `source`.
        IntegrityError: it has more bytes than `limit`.
        DiskFull: it does not fit.
        Stopped: `stop` was set.
    """
    with source.open("rb") as reader:
        size = os.fstat(reader.fileno()).st_size
        # The size of the open file, so that a file replaced in between cannot pass the check.
        check_limit(str(source), size, limit)
        part = Part(target)
        with part.filling(size):
            part.open(size, stop)
            reader.seek(part.size)
            for chunk in chunks(reader, stop):
                part.append(chunk)
            return part.finish()


def chunks(stream: BinaryIO, stop: Event) -> Iterator[bytes]:
    """Yield the rest of a file, until `stop` is set."""
    while chunk := stream.read(CHUNK):
        if stop.is_set():
            raise Stopped
        yield chunk


def check_limit(name: str, size: int, limit: int | None) -> None:
    """Refuse a file that is longer than it may be.

    Raises:
        IntegrityError: it is.
    """
    if limit is not None and size > limit:
        raise IntegrityError(f"{name} has {size} bytes, more than the {limit} that are expected.")


def disk_full(target: str, size: int, free: int) -> DiskFull:
    """Return the error that names both sizes."""
    return DiskFull(f"{target} needs {size} bytes; its disk has {free} more free.")
