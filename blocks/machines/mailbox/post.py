"""Commands to the agent of a machine, and its answers, by objects in a bucket; see the agent."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Mapping
from typing import Any, TypeVar
from uuid import uuid4

from blocks.machines.mailbox.grants import Grants
from blocks.stores.bucket import Bucket
from trainer.contract.errors import ConnectionLost, StoreError
from trainer.contract.files import NOT_JSON

T = TypeVar("T")
BEAT_SECONDS = 45.0  # within which the agent says several times that it is there
FIRST_POLL = 0.02  # seconds between the first two looks for an answer; then they grow
HEAVY = 64 << 10  # bytes of an answer that is removed once it has been read


class Post:
    """One side of a mailbox."""

    def __init__(self, bucket: Bucket, where: str, longest_poll: float) -> None:
        """Prepare; nothing is asked yet.

        Args:
            bucket: the mailbox.
            where: what the machine is called in messages.
            longest_poll: seconds at most between two looks for an answer.
        """
        self._bucket = bucket
        self._where = where
        self._longest_poll = longest_poll
        self._next: int | None = None
        self._one_by_one = asyncio.Lock()
        self._grants: Grants | None = None

    async def ask(
        self, wanted: Mapping[str, Any], payload: bytes = b"", *, seconds: float
    ) -> tuple[dict[str, Any], bytes]:
        """Send a command and return its answer: facts, and bytes.

        Raises:
            ConnectionLost: there is none within so many seconds.
        """
        return await self.answer(await self.send(wanted, payload), seconds)

    async def send(self, wanted: Mapping[str, Any], payload: bytes = b"") -> int:
        """Send a command and return its number.

        Raises:
            ConnectionLost: the bucket does not answer, or no agent has ever been there.
        """
        id = uuid4().hex
        content = json.dumps({**wanted, "id": id}).encode() + b"\n" + payload
        # One at a time, so that there is never a gap, at which the agent would wait for ever.
        async with self._one_by_one:
            number = await self._first() if self._next is None else self._next
            while True:
                await self._granted(number)
                name = f"in/{number:010}"
                # What is there may be ours: its answer was lost, and it was sent again.
                if await self._create(name, content) or await self._id_of(name) == id:
                    self._next = number + 1
                    return number
                number += 1

    async def answer(self, number: int, seconds: float | None) -> tuple[dict[str, Any], bytes]:
        """Wait for the answer to a command.

        Args:
            number: what `send` returned.
            seconds: how long it may take; None: for as long as the agent is alive.

        Raises:
            ConnectionLost: it does not come, or the agent is no longer there.
        """
        name, poll = f"out/{number:010}", FIRST_POLL
        until = None if seconds is None else time.monotonic() + seconds
        beat, beat_by = "", time.monotonic() + BEAT_SECONDS
        while (content := await self._get(name)) is None:
            now = time.monotonic()
            await self._granted(number)
            if until is not None and now >= until:
                raise self._lost(f"no answer within {seconds:g} s")
            if now >= beat_by:
                alive = (await self._get("alive") or b"").decode()
                if alive == beat:
                    raise self._lost(f"nothing has been heard of it for {BEAT_SECONDS:g} s")
                beat, beat_by = alive, now + BEAT_SECONDS
            await asyncio.sleep(poll)
            poll = min(1.3 * poll, self._longest_poll)
        head, _, payload = content.partition(b"\n")
        if len(payload) > HEAVY:
            await self._reached(self._bucket.delete([name]))
        return self._facts_of(head), payload

    async def _granted(self, number: int) -> None:
        """See that an agent without a key has an address for a command and its answer."""
        if self._grants:
            await self._reached(self._grants.cover(number))

    async def _first(self) -> int:
        """Return a number that is not before the agent's next one by much, and never after it."""
        alive = await self._get("alive")
        if alive is None:
            raise self._lost("its agent has not come up yet")
        self._grants = self._grants or await self._reached(Grants.of(self._bucket))
        number = self._facts_of(alive).get("next")
        # Of ten digits, as the names of commands have them.
        if type(number) is not int or not 0 <= number < 10**10:
            raise self._lost("its agent does not say which command is next")
        return number

    def _facts_of(self, content: bytes) -> dict[str, Any]:
        """Return what an agent says; the machine may write anything."""
        try:
            facts = json.loads(content)
        except NOT_JSON:
            facts = None
        if not isinstance(facts, dict):
            raise self._lost("its agent does not answer in JSON")
        return facts

    async def _id_of(self, name: str) -> str:
        head = (await self._get(name) or b"").partition(b"\n")[0]
        try:
            return str(json.loads(head)["id"])
        except (LookupError, TypeError, ValueError):  # not written by any of us
            return ""

    async def _create(self, name: str, content: bytes) -> bool:
        return await self._reached(self._bucket.create(name, content))

    async def _get(self, name: str) -> bytes | None:
        try:
            return await self._reached(self._bucket.get(name))
        except FileNotFoundError:
            return None

    async def _reached(self, call: Awaitable[T]) -> T:
        try:
            return await call
        except StoreError as error:
            raise self._lost(error.message.rstrip(".")) from error

    def _lost(self, why: str) -> ConnectionLost:
        self._next = None  # it is found anew, where another may have left a gap
        return ConnectionLost(f"{self._where} is not reached through its mailbox: {why}.")
