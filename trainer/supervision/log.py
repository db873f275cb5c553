"""Logs: appending to them, quoting from them and echoing them. Standard library only."""

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
        # What earlier attempts printed is not shown again.
        self._offset = os.fstat(self._log).st_size

    def show(self, patience: float = 0.0, chunks: int = MAX_CHUNKS) -> None:
        """Show what is new; a reader that takes nothing is waited for `patience` seconds."""
        for _ in range(chunks if self._on else 0):
            # POSIX: a pipe that select() calls writable takes PIPE_BUF bytes without blocking. A
            # larger write could block on a reader that has stopped, and the watchdog with it.
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
            # Logs reach gigabytes; an error message quotes a handful of lines.
            stream.seek(max(offset, stream.seek(0, os.SEEK_END) - TAIL))
            lines = stream.read().decode(errors="replace").splitlines()
    except OSError:
        return ()
    # Escape sequences and NULs, as progress bars leave them, have no place in a status file.
    readable = ("".join(filter(str.isprintable, line)).strip() for line in lines)
    return tuple(filter(None, readable))


class _Patient(io.FileIO):
    """A stream into a file; what a full disk does not take is written later."""

    _held = b""

    def write(self, data: Any, /) -> int:
        # Bounded: a disk may stay full for days. The newest output is what explains an end.
        self._held = (self._held + bytes(data))[-HELD:]
        try:
            while self._held and (written := super().write(self._held)):
                self._held = self._held[written:]
        except OSError as error:
            if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
                raise
        # The whole length, even if some of it is held: a smaller count would make BufferedWriter
        # retry at once, and an exception would end the training for the sake of a log line.
        return len(data)


def outlive_full_disks() -> None:
    """Keep print() from failing while the log's disk is full; for a process of its own.

    It replaces sys.stdout and sys.stderr, so call it before anything keeps a reference to them.
    """
    sys.stdout, sys.stderr = (
        io.TextIOWrapper(
            io.BufferedWriter(_Patient(number, "w", closefd=False)),
            encoding="utf-8",
            errors="backslashreplace",
            line_buffering=True,
        )
        for number in (1, 2)
    )


def lead_loggers(before: tuple[Any, Any]) -> None:
    """Let loggers that were made before the streams were replaced write to the new ones.

    Args:
        before: standard output and error as they were.
    """
    import logging  # a tenth of what the supervisor is, which does without

    every = [logging.root, *logging.root.manager.loggerDict.values()]
    for logger in every:
        for handler in getattr(logger, "handlers", ()):
            if isinstance(handler, logging.StreamHandler) and handler.stream in before:
                new = sys.stdout if handler.stream is before[0] else sys.stderr
                handler.setStream(new)
