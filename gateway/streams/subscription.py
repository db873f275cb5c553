"""What waits for one client: bounded, and never in anybody's way.

Metrics that a slow client has not taken make room for newer ones. Status and notifications do not:
a client that lets those pile up is cut off, and comes back with the cursor of what it has.
"""

from __future__ import annotations

import asyncio
from collections import deque

from gateway.streams.messages import Message, MessageType

MOST_MESSAGES, MOST_BYTES = 256, 8 << 20


class TooSlow(Exception):
    """The client did not take what may not be dropped."""


class Subscription:
    """The messages that one client has yet to be sent, oldest first."""

    def __init__(self) -> None:
        self._metrics: deque[tuple[int, Message]] = deque()
        self._kept: deque[tuple[int, Message]] = deque()
        self._bytes = 0
        self._number = 0
        self._fresh = asyncio.Event()
        self.is_cut_off = False
        self.dropped = 0
        """Messages of metrics that made room for newer ones."""
        self._gap: int | None = None

    def put(self, message: Message) -> None:
        """Add a message; it takes no time, whatever the client does."""
        if self.is_cut_off:
            return
        self._number += 1
        queue = self._metrics if message.type is MessageType.METRICS else self._kept
        queue.append((self._number, message))
        self._bytes += len(message.text)
        while self._is_full() and self._metrics:
            self._drop(self._metrics.popleft()[1])
        self.is_cut_off = self._is_full()
        self._fresh.set()

    def take_gap(self) -> int | None:
        """Return the least step that made room for newer ones, once nothing waits any more.

        A client that keeps up loses nothing, however much comes at once: the rest is in the store.
        """
        if self._gap is None or self._metrics or self._kept or self.is_cut_off:
            return None
        gap, self._gap = self._gap, None
        return gap

    async def take(self) -> Message:
        """Return the next message once there is one.

        Raises:
            TooSlow: there were too many, none of which may be dropped.
        """
        while True:
            if self.is_cut_off:
                raise TooSlow
            if self._metrics or self._kept:
                return self._oldest()
            self._fresh.clear()
            await self._fresh.wait()

    def _drop(self, message: Message) -> None:
        self._bytes -= len(message.text)
        self.dropped += 1
        self._gap = message.step if self._gap is None else min(self._gap, message.step)

    def _oldest(self) -> Message:
        first, other = self._metrics, self._kept
        if not first or (other and other[0][0] < first[0][0]):
            first = other
        message = first.popleft()[1]
        self._bytes -= len(message.text)
        return message

    def _is_full(self) -> bool:
        count = len(self._metrics) + len(self._kept)
        return count > MOST_MESSAGES or self._bytes > MOST_BYTES
