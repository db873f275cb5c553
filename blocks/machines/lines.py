"""From bytes as they come to whole lines, or to the last of them."""

from __future__ import annotations

from collections.abc import Callable

from blocks.machines.base import CAPTURE_LIMIT

MAX_LINE = 64 << 10  # bytes; a longer line is passed on in pieces


class LineWriter:
    """Passes whole lines on; what is not UTF-8 is replaced."""

    def __init__(self, log: Callable[[str], None]) -> None:
        self._log = log
        self._pending = b""
        self.received = 0
        """Bytes taken so far."""
        self.last = ""
        """The last line that was not empty."""

    def feed(self, chunk: bytes) -> None:
        """Take more bytes."""
        self.received += len(chunk)
        *lines, self._pending = (self._pending + chunk).split(b"\n")
        # A program that never ends its line must not fill our memory.
        while len(self._pending) > MAX_LINE:
            lines.append(self._pending[:MAX_LINE])
            self._pending = self._pending[MAX_LINE:]
        for line in lines:
            self._pass_on(line)

    def finish(self) -> None:
        """Pass on a last line without a line break."""
        if self._pending:
            self._pass_on(self._pending)
        self._pending = b""

    def _pass_on(self, line: bytes) -> None:
        # A progress bar overwrites its line: what a terminal would show at last is enough.
        text = line.decode(errors="replace").rstrip("\r").rpartition("\r")[2]
        self.last = text if text.strip() else self.last
        self._log(text)


class Tail:
    """Keeps the last MiB of an output."""

    def __init__(self) -> None:
        self._kept = bytearray()

    def feed(self, chunk: bytes) -> None:
        """Take more bytes."""
        self._kept += chunk
        if len(self._kept) > 2 * CAPTURE_LIMIT:  # not at every chunk: cutting moves a MiB
            del self._kept[:-CAPTURE_LIMIT]

    def text(self) -> str:
        """Return what is kept; what is not UTF-8 is replaced."""
        return self._kept[-CAPTURE_LIMIT:].decode(errors="replace")
