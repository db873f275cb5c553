"""Reading on in a file that grows, in whole lines. Standard library only."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

CHUNK = 1 << 20  # bytes


class TailReader:
    """Reads a growing file on from an offset; a line that has no end yet waits.

    Lines are bytes with their ends, so their lengths add up to the offset. A line longer than a
    chunk comes in pieces, of which only the last one has an end. A file that is not there yet
    holds nothing.
    """

    def __init__(
        self, path: Path, offset: int = 0, *, chunk: int = CHUNK, redrawn: bool = False
    ) -> None:
        """Prepare to read.

        Args:
            path: the file.
            offset: the byte to begin at.
            chunk: bytes to read at once.
            redrawn: whether a carriage return ends a line too, as that of a progress bar does.
        """
        self._path = path
        self._chunk = chunk
        self._redrawn = redrawn
        self.offset = offset
        """The first byte that was not taken."""
        self.is_full = False
        """Whether the last look filled the chunk, so that there may be more behind it."""

    def peek(self, *, rest: bool = False) -> list[bytes]:
        """Return the next lines, at most a chunk of them, without taking them.

        Args:
            rest: whether a last line without an end is one too: nothing more will come.
        """
        try:
            with self._path.open("rb") as stream:
                stream.seek(self.offset)
                content = stream.read(self._chunk)
        except FileNotFoundError:
            content = b""
        # A full chunk ends somewhere in a line, and a writer may be in the middle of one: both wait
        # for their end.
        self.is_full = len(content) == self._chunk
        # BytesIO splits at \n alone, as the writers do; splitlines() also at \r, which in a plain
        # log belongs to the line.
        lines = (
            content.splitlines(keepends=True) if self._redrawn else io.BytesIO(content).readlines()
        )
        waits = lines and not lines[-1].endswith((b"\n", b"\r") if self._redrawn else b"\n")
        # A single line that fills the chunk is passed on in pieces: otherwise it would wait for
        # ever.
        if waits and (len(lines) > 1 if self.is_full else not rest):
            lines.pop()
        return lines

    def read(self, *, rest: bool = False) -> list[bytes]:
        """Take the next lines, at most a chunk of them; see `peek`."""
        lines = self.peek(rest=rest)
        # Separate from `peek`, so that a sender can move on only when the lines have arrived.
        self.offset += sum(map(len, lines))
        return lines

    def chunks(self, *, rest: bool = False) -> Iterator[list[bytes]]:
        """Take all lines that are there, a chunk at a time; see `peek`."""
        while lines := self.read(rest=rest):
            yield lines
