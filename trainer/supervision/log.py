"""Logs: what is appended to them, quoted of them and shown of them. Standard library only."""

from __future__ import annotations

import errno
import io
import os
import select
import sys
from pathlib import Path
from typing import Any

TAIL = 64 * 1024  # bytes of the log in which its last lines are looked for
HELD = 1 << 20  # bytes of output kept while the log's disk is full
MAX_CHUNKS = 256  # of select.PIPE_BUF bytes, shown at one go


class Echo:
    """Shows on standard output what is appended to a log, without ever waiting for a reader."""

    def __init__(self, log: Path, *, on: bool) -> None:
        self._on = on
        self._log = os.open(log, os.O_RDONLY | os.O_CREAT, 0o644)
        self._offset = os.fstat(self._log).st_size

    def show(self, patience: float = 0.0, chunks: int = MAX_CHUNKS) -> None:
        """Show what is new; a reader that takes nothing is waited for `patience` seconds."""
        for _ in range(chunks if self._on else 0):
            # A pipe that is ready takes this much at once, so the write does not block.
            chunk = os.pread(self._log, select.PIPE_BUF, self._offset)
            try:
                if not chunk or not select.select([], [1], [], patience)[1]:
                    break
                self._offset += os.write(1, chunk)
            except OSError:  # the terminal or the reader is gone; training is not
                self._on = False
                break


def last_lines(log: Path, offset: int = 0) -> tuple[str, ...]:
    """Return the last lines after `offset` that have anything to read in them."""
    try:
        with log.open("rb") as stream:
            stream.seek(max(offset, stream.seek(0, os.SEEK_END) - TAIL))
            lines = stream.read().decode(errors="replace").splitlines()
    except OSError:
        return ()
    readable = ("".join(filter(str.isprintable, line)).strip() for line in lines)
    return tuple(filter(None, readable))


class _Patient(io.FileIO):
    """A stream into a file; what a full disk does not take is written later."""

    _held = b""

    def write(self, data: Any, /) -> int:
        self._held = (self._held + bytes(data))[-HELD:]
        try:
            while self._held and (written := super().write(self._held)):
                self._held = self._held[written:]
        except OSError as error:
            if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
                raise
        return len(data)


def outlive_full_disks() -> None:
    """Let whoever prints go on while the log's disk is full; for a process of its own."""
    sys.stdout, sys.stderr = (
        io.TextIOWrapper(
            io.BufferedWriter(_Patient(number, "w", closefd=False)),
            encoding="utf-8",
            errors="backslashreplace",
            line_buffering=True,
        )
        for number in (1, 2)
    )
