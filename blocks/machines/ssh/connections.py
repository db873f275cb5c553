"""The connections to one machine: opened when needed, shared by all verbs, opened anew when cut."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import asyncssh

from blocks.machines.ssh.channel import Channel, Cut
from blocks.machines.ssh.host_key import HostKeyPin, PinningClient, key_types
from blocks.machines.ssh.script import BOOT
from blocks.task_scope import ended
from trainer.contract.errors import ConfigError, ConnectionLost

T = TypeVar("T")
CONNECT_SECONDS = 15.0
KEEPALIVE_SECONDS = 10  # between two signs of life; the connection is cut when three are missing
KEEPALIVE_MISSES = 3
# sshd allows ten sessions per connection: https://man.openbsd.org/sshd_config#MaxSessions
CHANNELS = 8
PACKET = 256 << 10  # bytes at most; the 32 KiB that asyncssh asks for by default cost more CPU
WINDOW = 2 << 20  # bytes that may be under way
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0  # seconds before another attempt


class _Link:
    """One connection, and how many channels are open on it."""

    def __init__(self, connection: asyncssh.SSHClientConnection, client: PinningClient) -> None:
        self.connection = connection
        self.used = 0
        self.retired = False
        self._client = client

    @property
    def is_free(self) -> bool:
        return not self.retired and not self._client.lost and self.used < CHANNELS


class Patience:
    """How long one verb goes on trying while nothing arrives."""

    def __init__(self, seconds: float, where: str) -> None:
        self._seconds = seconds
        self._where = where
        self.reason = "no answer"
        """Of the last attempt that was not cut short."""
        self._failing_since: float | None = None
        self._opening_since: float | None = None
        self._pause = FIRST_PAUSE

    def opening(self) -> None:
        """Note that a channel is asked for: until it opens, nothing is heard."""
        self._opening_since = asyncio.get_running_loop().time()

    def opened(self) -> None:
        """Note that the channel was opened."""
        self._opening_since = None

    def progressed(self) -> None:
        """Begin anew: something arrived."""
        self._failing_since = None
        self._pause = FIRST_PAUSE
        self.reason = "no answer"

    @property
    def left(self) -> float:
        """Seconds."""
        if self._failing_since is None:
            return self._seconds
        return self._failing_since + self._seconds - asyncio.get_running_loop().time()

    async def pause(self, cut: Cut) -> None:
        """Wait a while before another attempt.

        Raises:
            ConnectionLost: it has been long enough.
        """
        self.reason = str(cut)
        now = asyncio.get_running_loop().time()
        # From when the attempt began and not from its failure: one that is never answered uses
        # up patience too.
        self._failing_since = self._failing_since or self._opening_since or now
        pause = self._pause * random.uniform(0.5, 1)  # noqa: S311 - spreads retries
        self._pause = min(2 * self._pause, LONGEST_PAUSE)
        if self.left <= pause:
            raise ConnectionLost(
                f"{self._where} could not be reached for {self._seconds:.0f} s: {cut}."
            ) from cut
        await asyncio.sleep(pause)


class Connections:
    """Channels to a machine, on as few connections as its sshd allows."""

    def __init__(
        self,
        address: str,
        *,
        port: int,
        user: str,
        private_key: Path,
        host_key: Path,
        patience: float,
        compress: bool = False,
    ) -> None:
        self.where = f"{address}:{port}"
        self._address, self._port, self._user = address, port, user
        self._private_key = private_key
        self._pin = HostKeyPin(host_key, f"[{address}]:{port}")
        self._patience = patience
        # This kind of zlib begins after the login, so a stranger never reaches the decompressor.
        self._compression = ["zlib@openssh.com", "none"] if compress else ["none"]
        self._links: list[_Link] = []
        self._connecting: asyncio.Task[None] | None = None
        self._closed = False

    async def persist(self, attempt: Callable[[Patience], Awaitable[T]]) -> T:
        """Repeat what is cut until it is done.

        Raises:
            ConnectionLost: it was cut for too long.
        """
        patience = Patience(self._patience, self.where)
        while True:
            try:
                return await attempt(patience)
            except Cut as cut:
                await patience.pause(cut)

    async def open(self, script: str, patience: Patience, *, window: int = WINDOW) -> Channel:
        """Run a script on a channel of its own.

        Raises:
            Cut: it was not sent.
            HostKeyChanged: what answers is not the machine.
        """
        patience.opening()
        opening = asyncio.ensure_future(self._open(window))
        try:
            async with asyncio.timeout(patience.left):
                # Shielded: a channel that opens while we are cancelled must be known to be closed.
                channel = await asyncio.shield(opening)
        except (TimeoutError, asyncio.CancelledError) as error:
            # The channel may still open after we gave up on it, and would take a place on its
            # connection.
            opening.add_done_callback(_abort)
            if isinstance(error, TimeoutError):
                # Patience ended in the midst of this attempt, which says nothing of the machine.
                raise Cut(patience.reason) from error
            raise
        patience.opened()
        # Paths that are not UTF-8 arrive as the bytes that they are
        # (https://peps.python.org/pep-0383/).
        await channel.write(script.encode(errors="surrogateescape") + b"\n")
        return channel

    async def close(self) -> None:
        """Close all connections."""
        self._closed = True
        if self._connecting:
            await ended([self._connecting])
        # Taken away first: a channel that is released meanwhile must not close one of them again.
        links, self._links = self._links, []
        for link in links:
            link.connection.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(1):
                await asyncio.gather(*(link.connection.wait_closed() for link in links))

    async def _open(self, window: int) -> Channel:
        link = await self._reserve()
        channel = Channel(window, lambda: self._release(link), self.where)
        made = False

        def make() -> Channel:
            nonlocal made
            made = True
            return channel

        try:
            await link.connection.create_session(
                make, BOOT, encoding=None, window=window, max_pktsize=PACKET
            )
        except (OSError, asyncssh.Error) as error:
            link.retired = True  # nothing new is opened on it, whatever is wrong
            if not made:  # otherwise the channel reports its own end
                self._release(link)
            raise Cut(error) from error
        return channel

    async def _reserve(self) -> _Link:
        """Return a connection with room for a channel, which is counted already."""
        while True:
            if self._closed:
                raise ConnectionLost(f"The connection to {self.where} was closed.")
            for link in self._links:
                if link.is_free:
                    # Counted before anything is awaited, so that two verbs never take the same
                    # last place.
                    link.used += 1
                    return link
            if self._connecting is None:
                self._connecting = asyncio.create_task(self._connect())
                self._connecting.add_done_callback(self._connected)
            # Shielded: it is made for all who wait for it.
            await asyncio.shield(self._connecting)

    def _connected(self, connecting: asyncio.Task[None]) -> None:
        self._connecting = None
        if not connecting.cancelled():
            connecting.exception()  # else asyncio logs it as never retrieved if all waiters gave up

    def _release(self, link: _Link) -> None:
        link.used -= 1
        # One connection stays open for the next verb; those beyond it served a burst.
        if link.used == 0 and link in self._links and (link.retired or len(self._links) > 1):
            self._links.remove(link)
            link.connection.close()

    async def _connect(self) -> None:
        key = self._read_private_key()
        client = PinningClient(self._pin, key)
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                connection, _ = await asyncssh.create_connection(
                    lambda: client,
                    self._address,
                    self._port,
                    username=self._user,
                    # Nothing of this user's own: the one key comes from the client, and the
                    # host key is judged by it.
                    config=[],
                    agent_path=None,
                    client_keys=None,
                    known_hosts=([], [], []),
                    server_host_key_algs=key_types(self._pin.load()),
                    preferred_auth="publickey",
                    # "^" moves these to the front; a machine that lacks them is offered the rest
                    # of the defaults.
                    kex_algs="^curve25519-sha256,curve25519-sha256@libssh.org",
                    encryption_algs="^aes128-gcm@openssh.com,aes256-gcm@openssh.com",
                    compression_algs=self._compression,
                    keepalive_interval=KEEPALIVE_SECONDS,
                    keepalive_count_max=KEEPALIVE_MISSES,
                )
        except TimeoutError as error:
            raise Cut(f"no answer within {CONNECT_SECONDS:.0f} s") from error
        except asyncssh.PermissionDenied as error:
            raise client.changed or Cut(f"permission denied for user {self._user}") from error
        except ConnectionRefusedError as error:
            raise Cut("connection refused") from error
        except (OSError, asyncssh.Error) as error:
            raise client.changed or Cut(error) from error
        self._links = [link for link in self._links if link.used]  # without those that were lost
        self._links.append(_Link(connection, client))

    def _read_private_key(self) -> asyncssh.SSHKey:
        try:
            return asyncssh.read_private_key(self._private_key)
        except (OSError, asyncssh.KeyImportError) as error:
            raise ConfigError(
                f"The private key {self._private_key} for {self.where} cannot be read.",
                "Give the path of a key without a passphrase.",
            ) from error


def _abort(opening: asyncio.Future[Channel]) -> None:
    if not opening.cancelled() and not opening.exception():
        opening.result().abort()
