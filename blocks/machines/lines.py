"""From bytes as they come to whole lines."""

from __future__ import annotations

from collections.abc import Callable

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
