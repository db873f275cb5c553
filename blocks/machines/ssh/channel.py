"""One command on a machine: its input, its outputs and its end, as raw bytes."""

from __future__ import annotations

import asyncio
import signal
from collections import deque
from collections.abc import Callable
from contextlib import suppress

import asyncssh
from typing_extensions import override

from blocks.machines.lines import Tail
from blocks.machines.processes import CLOSE_SECONDS
from trainer.contract.errors import ConnectionLost

SEND_BUFFER = 1 << 20  # bytes that may wait for the machine to take them
# Longer than the connection takes to notice that nobody is at its other end: what is silent for
# longer is a machine whose sshd answers and whose commands do nothing.
SILENCE_SECONDS = 60.0


class Cut(Exception):
    """The connection broke or could not be made: worth another try. Says why."""


class Channel(asyncssh.SSHClientSession[bytes]):
    """Takes in at most about `hold` bytes ahead of its reader."""

    def __init__(self, hold: int, on_close: Callable[[], None], where: str) -> None:
        self.stderr = Tail()
        """The end of what came on standard error."""
        self.silence: float | None = SILENCE_SECONDS
        """Seconds for which neither side may get a byte while we wait; None: any number."""
        self.exit_code: int | None = None
        """As the machine reported it; negative when a signal ended the command."""
        self._hold = hold
        self._on_close = on_close
        self._where = where
        self._heard = 0
        self._channel: asyncssh.SSHClientChannel[bytes] | None = None
        self._chunks: deque[bytes] = deque()
        self._held = 0
        self._needed = 1
        self._paused = False
        self._news = asyncio.Event()
        self._ended = False
        self._error: Exception | None = None
        self._writable = asyncio.Event()
        self._writable.set()

    async def read(self, limit: int, *, at_least: int = 1, until_exit: bool = False) -> bytes:
        """Return up to `limit` bytes of the output; b"" at its end.

        Args:
            limit: bytes.
            at_least: bytes to wait for, unless the output ends before.
            until_exit: whether the command's exit counts as the end of its output, too.

        Raises:
            Cut: the connection broke; what came before it was read.
            ConnectionLost: it stands, and the command was silent for `silence` seconds.
        """
        while self._held < at_least and not self._ended:
            if until_exit and self.exit_code is not None:
                break
            self._needed = at_least
            await self._next_news()
        if self._chunks:
            return self._take(limit)
        if self._error:
            raise Cut(self._error) from self._error
        return b""

    async def write(self, data: bytes) -> None:
        """Send input; wait while too much of it is under way.

        Raises:
            Cut: the command takes no more of it, or the connection broke.
            ConnectionLost: the connection stands, and it took nothing for `silence` seconds.
        """
        await self._until(self._writable)
        try:
            self._open_channel.write(data)
        except OSError as error:
            raise Cut(self._error or error) from error

    def write_eof(self) -> None:
        """End the input."""
        with suppress(OSError):
            self._open_channel.write_eof()

    async def wait(self) -> int:
        """Wait for the command's end and return its exit code; its output may still come.

        Raises:
            Cut: the connection broke before the exit code came.
            ConnectionLost: it stands, and the command was silent for `silence` seconds.
        """
        while self.exit_code is None:
            # The end of the output proves nothing: the exit code follows it in a message of its
            # own. Only a channel that is closed will never bring one.
            if self._ended and self._channel is None:
                raise Cut(self._error or "no exit code came")
            await self._next_news()
        return self.exit_code

    async def drain(self, take: Callable[[bytes], None]) -> None:
        """Take the rest of the output, until it has ended or nothing more comes.

        A process that left the command's group may hold the output open for ever.
        """
        with suppress(TimeoutError, Cut):
            while True:
                async with asyncio.timeout(CLOSE_SECONDS):
                    chunk = await self.read(self._hold)
                if not chunk:
                    return
                take(chunk)

    async def abandon(self, seconds: float) -> None:
        """End the input and wait a while for the command to end; then close."""
        self.write_eof()
        try:
            with suppress(TimeoutError, Cut):
                async with asyncio.timeout(seconds):
                    await self.wait()
        finally:
            self.abort()

    def abort(self) -> None:
        """Close at once."""
        if self._channel:
            self._channel.abort()

    @property
    def _open_channel(self) -> asyncssh.SSHClientChannel[bytes]:
        if self._channel is None:
            raise BrokenPipeError("the channel is closed")
        return self._channel

    async def _next_news(self) -> None:
        self._news.clear()
        await self._until(self._news)

    async def _until(self, event: asyncio.Event) -> None:
        while True:
            before = self._moved()
            try:
                async with asyncio.timeout(self.silence):
                    await event.wait()
            except TimeoutError:
                # What arrives may be less than the reader waits for, and what is sent goes on
                # draining into a slow line: neither is silence.
                if self._moved() == before:
                    raise ConnectionLost(
                        f"{self._where} accepts connections, and its commands do nothing for "
                        f"{self.silence:g} s.",
                        "Look at the machine: its disk may hang, or its memory be used up.",
                    ) from None
            else:
                return

    def _moved(self) -> tuple[int, int]:
        """Return what changes with every byte that arrives or leaves."""
        return self._heard, self._channel.get_write_buffer_size() if self._channel else 0

    def _take(self, limit: int) -> bytes:
        taken, size = [], 0
        while self._chunks and size < limit:
            chunk = self._chunks.popleft()
            if len(chunk) > limit - size:
                # The rest goes back: SSH packets know nothing of the sizes that a caller asks for.
                self._chunks.appendleft(chunk[limit - size :])
                chunk = chunk[: limit - size]
            taken.append(chunk)
            size += len(chunk)
        self._held -= size
        # Resumed at half: at the mark itself, reading and pausing would alternate packet by
        # packet.
        if self._paused and self._held < self._hold // 2 and self._channel:
            self._paused = False
            self._channel.resume_reading()
        return b"".join(taken)

    @override
    def connection_made(self, chan: asyncssh.SSHClientChannel[bytes]) -> None:
        self._channel = chan
        chan.set_write_buffer_limits(SEND_BUFFER)

    @override
    def data_received(self, data: bytes, datatype: int | None) -> None:
        self._heard += len(data)
        # Kept apart and bounded: it may be held for the whole life of a command that never stops
        # complaining.
        if datatype == asyncssh.EXTENDED_DATA_STDERR:
            self.stderr.feed(data)
            return
        self._chunks.append(data)
        self._held += len(data)
        if self._held >= self._needed:  # or the reader would wake up for every packet
            self._news.set()
        if self._held > self._hold and not self._paused and self._channel:
            self._paused = True
            self._channel.pause_reading()

    @override
    def eof_received(self) -> bool:
        self._end()
        return True  # the input stays open

    @override
    def exit_status_received(self, status: int) -> None:
        # A shell reports a signal as 128 + its number, and a file that it may not execute as 126.
        self.exit_code = {126: 127}.get(status, status)
        if 128 < status < 128 + signal.NSIG:
            self.exit_code = 128 - status
        self._news.set()

    @override
    def exit_signal_received(self, signal: str, core_dumped: bool, msg: str, lang: str) -> None:
        assert self._channel  # noqa: S101 - it was opened
        self.exit_code = self._channel.get_returncode()
        self._news.set()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        # A writer may be waiting for room, and a reader for data: both must wake up and see that
        # the channel is closed.
        self._error = exc
        self._channel = None
        self._on_close()
        self._writable.set()
        self._end()

    @override
    def pause_writing(self) -> None:
        self._writable.clear()

    @override
    def resume_writing(self) -> None:
        self._writable.set()

    def _end(self) -> None:
        self._ended = True
        self._news.set()
