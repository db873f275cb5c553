"""Files to and from a machine over SSH: raw bytes, hashed in one pass, resumed after a cut."""

from __future__ import annotations

import asyncio
import hashlib
import os
from functools import partial
from pathlib import Path
from threading import Event
from typing import BinaryIO

from blocks.machines.base import Transfer
from blocks.machines.disk import room_in
from blocks.machines.ssh import script as ssh_script
from blocks.machines.ssh.channel import SILENCE_SECONDS, Channel, Cut
from blocks.machines.ssh.connections import Connections, Patience
from blocks.machines.transfer import Part, check_limit, chunks, disk_full
from blocks.threads import in_thread
from trainer.contract.errors import DiskFull, IntegrityError, OrchestratorError
from trainer.contract.files import CHUNK

WINDOW = 16 << 20  # bytes under way at once: enough for 1.3 Gbit/s at a round trip of 100 ms
SLOW_DISK = 20e6  # bytes per second
MAX_LINE = 4 << 10  # bytes; of the lines that come before the content


class _Changed(Exception):
    """The file is not what it was when the transfer began, or what arrived is not it."""


async def download(
    connections: Connections, remote: str, local: Path, limit: int | None
) -> Transfer:
    """Fetch a file as `Machine.download` promises.

    Raises:
        IntegrityError: it is not a plain file, it is longer than `limit`, or it keeps changing.
    """
    for _ in range(2):
        try:
            return await connections.persist(_Download(connections, remote, local, limit).attempt)
        except _Changed:
            Part(local).path.unlink(missing_ok=True)
    raise IntegrityError(f"{remote} changed while it was fetched; tried twice.")


async def upload(connections: Connections, local: Path, remote: str) -> Transfer:
    """Put a file on the machine as `Machine.upload` promises; its hash is compared there.

    Raises:
        IntegrityError: what arrived is not what was sent, twice.
    """
    for anew in (False, True):
        try:
            transfer = await connections.persist(
                _Upload(connections, local, remote, anew=anew).attempt
            )
        except _Changed:
            continue
        await connections.persist(partial(_settle, connections, remote, transfer.bytes))
        return transfer
    raise IntegrityError(f"{remote} does not match {local} after the upload; tried twice.")


class _Download:
    """One file on its way here, over as many connections as it takes."""

    def __init__(
        self, connections: Connections, remote: str, local: Path, limit: int | None
    ) -> None:
        self._connections = connections
        self._remote = remote
        self._local = local
        self._limit = limit
        self._size: int | None = None
        self._resumed: int | None = None

    async def attempt(self, patience: Patience) -> Transfer:
        part = Part(self._local)
        offset = part.path.stat().st_size if part.path.exists() else 0
        script = ssh_script.fetch(self._remote, offset)
        channel = await self._connections.open(script, patience, window=WINDOW)
        try:
            size = await self._ask_size(channel)
            if offset > size:
                # Left from a longer version of the file; what is fetched next starts at its
                # beginning.
                part.path.unlink()
                raise Cut("what is there is longer than the file")
            with part.filling(size):
                await in_thread(partial(part.open, size))
                if self._resumed is None:
                    # Of the first attempt: what later ones find there was fetched by this very
                    # transfer.
                    self._resumed = part.resumed
                part.resumed = self._resumed
                await self._receive(channel, part, size, patience)
                return await in_thread(lambda _: part.finish())
        finally:
            channel.abort()

    async def _ask_size(self, channel: Channel) -> int:
        line = await _read_line(channel)
        if not line:
            code = await channel.wait()
            if code == ssh_script.MISSING:
                raise FileNotFoundError(self._remote)
            if code == ssh_script.NOT_PLAIN:
                raise IntegrityError(f"{self._remote} is not a plain file.")
            raise refused(self._remote, "read", channel)
        size = _number(line)
        check_limit(self._remote, size, self._limit)
        if self._size is not None and self._size != size:
            raise _Changed
        self._size = size
        return size

    async def _receive(self, channel: Channel, part: Part, size: int, patience: Patience) -> None:
        """Write what comes, one chunk in a thread while the next one arrives."""
        missing = size - part.size
        writing: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        writing.set_result(None)
        try:
            while missing:
                chunk = await channel.read(min(CHUNK, missing), at_least=min(CHUNK, missing))
                if not chunk:
                    await channel.wait()
                    raise _Changed  # it became shorter
                patience.progressed()
                missing -= len(chunk)
                await writing
                # One chunk in the thread and one on its way: the disk and the network work at the
                # same time, and memory holds no more than two.
                writing = asyncio.ensure_future(asyncio.to_thread(part.append, chunk))
        finally:
            # Also when this is cancelled: a retry must not meet the thread still writing.
            await asyncio.wait([writing])
        await writing


class _Upload:
    """One file on its way to a machine, over as many connections as it takes."""

    def __init__(self, connections: Connections, local: Path, remote: str, *, anew: bool) -> None:
        self._connections = connections
        self._local = local
        self._remote = remote
        self._anew = anew
        self._there = -1
        self._resumed: int | None = None

    async def attempt(self, patience: Patience) -> Transfer:
        with self._local.open("rb") as source:
            size = os.fstat(source.fileno()).st_size
            script = ssh_script.receive(self._remote, size, anew=self._anew)
            channel = await self._connections.open(script, patience)
            # Only the first attempt discards what is there; later ones go on with what it sent.
            self._anew = False
            try:
                there = await self._ask_room(channel, size)
                # Only growth counts, or a machine that drops the connection at once would be tried
                # for ever.
                if there > self._there:
                    patience.progressed()
                self._there = there
                if self._resumed is None:
                    self._resumed = there
                digest = await self._send(channel, source, there, size)
                await self._compare(channel, digest, size)
            finally:
                channel.abort()
        return Transfer(bytes=size, sha256=digest, resumed=self._resumed)

    async def _ask_room(self, channel: Channel, size: int) -> int:
        """Return how many bytes are there already."""
        line = await _read_line(channel)
        if not line:
            await channel.wait()
            raise refused(self._remote, "written", channel)
        there, free = _number(line), room_in(await _read_line(channel)).free
        if size - there > free:
            raise disk_full(self._remote, size, free)
        return there

    async def _send(self, channel: Channel, source: BinaryIO, there: int, size: int) -> str:
        """Send what is missing, reading a chunk while the last one goes; return the SHA-256."""
        digest = hashlib.sha256()
        await in_thread(partial(_hash_first, source, there, digest))
        reading = asyncio.ensure_future(asyncio.to_thread(_read_hashed, source, digest))
        try:
            sent = there
            # Shielded, so that a cancelled upload leaves no thread reading from a file that is
            # closed: the thread is waited for below.
            while chunk := await asyncio.shield(reading):
                reading = asyncio.ensure_future(asyncio.to_thread(_read_hashed, source, digest))
                sent += len(chunk)
                try:
                    await channel.write(chunk)
                except Cut:
                    await channel.wait()  # cut as well, unless the machine gave up
                    break
        finally:
            await asyncio.wait([reading])
        # The file grew or shrank while it was sent.
        if channel.exit_code is None and sent != size:
            raise _Changed
        channel.write_eof()
        return digest.hexdigest()

    async def _compare(self, channel: Channel, digest: str, size: int) -> None:
        channel.silence = _busy_seconds(size)
        line = await _read_line(channel)
        code = await channel.wait()
        # cat fails for other reasons too, and only its message shows that the disk is full.
        if code == ssh_script.FULL and "rror: No space" not in channel.stderr.text():
            raise refused(self._remote, "written", channel)
        if code == ssh_script.FULL:
            raise disk_full(self._remote, size, room_in(line).free)
        if code:
            raise refused(self._remote, "verified", channel)
        if line.split()[:1] != [digest]:
            raise _Changed


async def _settle(connections: Connections, remote: str, size: int, patience: Patience) -> None:
    channel = await connections.open(ssh_script.settle(remote, size), patience)
    channel.silence = _busy_seconds(size)
    try:
        if await channel.wait():
            await channel.drain(lambda _: None)
            raise refused(remote, "put at its place", channel)
    finally:
        channel.abort()


def _busy_seconds(size: int) -> float:
    """Return for how long a machine may be silent that hashes a file or puts it on its disk."""
    return SILENCE_SECONDS + size / SLOW_DISK


async def _read_line(channel: Channel) -> str:
    """Return the next line of the output; "" at its end."""
    line = bytearray()
    while not line.endswith(b"\n") and len(line) < MAX_LINE:
        byte = await channel.read(1)  # what follows is content
        if not byte:
            break
        line += byte
    return line.decode(errors="replace").strip()


def _number(line: str) -> int:
    if not line.isdecimal():
        raise OrchestratorError(f"The machine answered {line[:80]!r} instead of a size in bytes.")
    return int(line)


def refused(remote: str, deed: str, channel: Channel) -> OrchestratorError:
    """Return what a script's complaint about a file means, such as a disk that is full."""
    said = channel.stderr.text().strip().rpartition("\n")[2]
    if "No space left" in said:
        return DiskFull(f"{remote} cannot be {deed}: {said}.")
    return OrchestratorError(f"{remote} cannot be {deed}: {said}.")


def _hash_first(source: BinaryIO, count: int, digest: hashlib._Hash, stop: Event) -> None:
    """Hash the first `count` bytes of a file, and leave its position behind them."""
    left = count
    for chunk in chunks(source, stop):
        digest.update(chunk[:left])
        left -= min(left, len(chunk))
        if not left:
            break
    source.seek(count)


def _read_hashed(source: BinaryIO, digest: hashlib._Hash) -> bytes:
    chunk = source.read(CHUNK)
    digest.update(chunk)
    return chunk
