"""Signed addresses for an agent without a key: they lie in the mailbox, renewed while we are there."""

from __future__ import annotations

import asyncio
import json
import time
import zlib
from typing import Literal

from blocks.machines.mailbox.agent.signed import GRANT
from blocks.stores.bucket import Bucket

LASTING = 6 * 86_400.0
"""Seconds for which they are good, if the credentials that sign them last as long: stores allow seven
days."""
RENEW_SECONDS = 120.0  # the credentials may end in minutes, and others have taken their place
BEHIND, AHEAD = 50, 250  # commands that a grant is for, from the one that comes next
LEAST = 100  # commands that must still be ahead
REMOVED = 1000  # numbers after which a command and its answer are removed


class Grants:
    """What one side of a mailbox has granted."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self._end = 0
        self._made_at = -RENEW_SECONDS
        self._one_by_one = asyncio.Lock()

    @classmethod
    async def of(cls, bucket: Bucket) -> Grants | None:
        """Return the grants of a mailbox; None: its agent has a key of its own.

        Raises:
            StoreError: the store does not say.
        """
        return cls(bucket) if await bucket.head(GRANT) else None

    async def begin(self) -> str:
        """Grant the first commands, and return the address by which the agent finds its grants.

        Raises:
            StoreError: the store refuses, or the credentials in use cannot sign.
        """
        await self.cover(0)
        return (await self._bucket.sign("GET", [GRANT], LASTING))[0]

    async def cover(self, number: int) -> None:
        """See that a command can be read and answered; mostly there is nothing to do.

        Raises:
            StoreError: the store refuses, or the credentials in use cannot sign.
        """
        async with self._one_by_one:
            young = time.monotonic() - self._made_at < RENEW_SECONDS
            if young and number + LEAST <= self._end:
                return
            first, end = max(0, number - BEHIND), number + AHEAD
            asked = [f"in/{one:010}" for one in range(first, end)]
            answers = [f"out/{one:010}" for one in range(first, end)]
            grant = {
                "headers": self._bucket.put_headers,
                "get": await self._signed("GET", [GRANT, "alive", "over", *asked]),
                # Commands too: what must not be done twice, or holds a secret, is emptied.
                "put": await self._signed("PUT", ["alive", *asked, *answers]),
            }
            # A seventh of its size: addresses are long, and mostly alike.
            await self._bucket.put(GRANT, zlib.compress(json.dumps(grant).encode(), 1))
            self._made_at, self._end = time.monotonic(), end
            await self._clean(first)

    async def _signed(self, method: Literal["GET", "PUT"], names: list[str]) -> dict[str, str]:
        return dict(zip(names, await self._bucket.sign(method, names, LASTING), strict=True))

    async def _clean(self, first: int) -> None:
        """Remove what an agent with a key removes itself."""
        end = max(0, first - REMOVED)
        old = range(max(0, end - AHEAD - BEHIND), end)
        await self._bucket.delete([f"{box}/{one:010}" for one in old for box in ("in", "out")])
