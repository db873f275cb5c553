"""A TCP proxy that does to connections what networks do to them."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Self

READ = 64 << 10  # bytes
IN_FLIGHT = 256  # chunks on their way in one direction


class Proxy:
    """Passes connections on to `host:port`; as an async context manager: started, then closed."""

    def __init__(self, host: str, port: int) -> None:
        self.address = "127.0.0.1"
        self.port = 0
        """Where it listens, once started."""
        self.latency = 0.0
        """Seconds that every byte is under way, in each direction."""
        self.bytes_per_second: float | None = None
        """What each direction of each connection passes at most."""
        self.connections = 0
        """How many were accepted and passed on."""
        self.passed = 0
        """Bytes passed on, in both directions."""
        self._target = (host, port)
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._accepting = True
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._cut_at: int | None = None
        self._flip_at: int | None = None

    async def start(self) -> None:
        """Listen on a free port."""
        self._server = await asyncio.start_server(self._accept, self.address, 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Drop all connections and stop listening."""
        if self._server:
            self._server.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """Drop all connections at once, in both directions; new ones are allowed."""
        self._cut_at = None
        for writer in self._writers:
            writer.transport.abort()

    def refuse(self) -> None:
        """Close new connections at once."""
        self._accepting = False

    def accept(self) -> None:
        """Pass new connections on again."""
        self._accepting = True

    def freeze(self) -> None:
        """Hold every byte back and close nothing: a partition. TCP keeps what was sent."""
        self._flowing.clear()

    def thaw(self) -> None:
        """End the partition; what was held goes on."""
        self._flowing.set()

    def cut_after(self, count: int) -> None:
        """Drop all connections once, when that many more bytes were passed on."""
        self._cut_at = self.passed + count

    def flip(self, offset: int) -> None:
        """Flip a bit once, of the byte that many bytes ahead."""
        self._flip_at = self.passed + offset

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._accepting:
            writer.transport.abort()
            return
        task = asyncio.current_task()
        self._tasks.add(task)
        self._writers.add(writer)
        self.connections += 1
        try:
            # Cancelled when we are closed: asyncio would report that as an error.
            with suppress(OSError, asyncio.CancelledError):
                await self._connect(reader, writer)
        finally:
            writer.transport.abort()
            self._writers.discard(writer)
            self._tasks.discard(task)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection(*self._target)
        self._writers.add(there_writer)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, there_writer))
                group.create_task(self._pump(there_reader, writer))
        except* OSError:
            pass
        finally:
            there_writer.transport.abort()
            self._writers.discard(there_writer)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass one direction on to its end."""
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(IN_FLIGHT)
        delivering = asyncio.ensure_future(self._deliver(under_way, writer))
        try:
            while chunk := await reader.read(READ):
                due = asyncio.get_running_loop().time() + self.latency
                await under_way.put((due, chunk))
            await under_way.put((0, b""))
            await delivering
        finally:
            delivering.cancel()

    async def _deliver(
        self, under_way: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter
    ) -> None:
        while True:
            due, chunk = await under_way.get()
            await asyncio.sleep(max(0.0, due - asyncio.get_running_loop().time()))
            await self._flowing.wait()
            if not chunk:
                writer.write_eof()
                return
            if self.bytes_per_second:
                await asyncio.sleep(len(chunk) / self.bytes_per_second)
            with suppress(OSError):  # a dead end shows where it is read
                writer.write(self._damaged(chunk))
                await writer.drain()

    def _damaged(self, chunk: bytes) -> bytes:
        """Count what passes; cut and flip where it was asked for."""
        begin, self.passed = self.passed, self.passed + len(chunk)
        if self._flip_at is not None and begin <= self._flip_at < self.passed:
            spoiled = bytearray(chunk)
            spoiled[self._flip_at - begin] ^= 1
            self._flip_at, chunk = None, bytes(spoiled)
        if self._cut_at is not None and self.passed >= self._cut_at:
            chunk = chunk[: self._cut_at - begin]
            asyncio.get_running_loop().call_soon(self.cut)
        return chunk
