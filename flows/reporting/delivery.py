"""Deliver one kind of report to its receiver: in order, and noted as delivered after its 2xx.

A receiver that is down is tried again after growing pauses. One that refuses is warned about once
and tried rarely. Whatever is not delivered yet stays in the spool.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Protocol

import httpx

from blocks.retry_after import retry_after
from flows.locks import locked
from flows.logger import logger
from flows.reporting.alerts import next_alert
from flows.reporting.platform import Address, Platform
from flows.reporting.points import next_points
from flows.reporting.spool import DeliveryCursor, DeliveryFolder, Spool
from flows.run_folder import RunFolder

METRICS, ALERTS = "metrics", "alerts"
POST_SECONDS = 10.0  # for one request, connecting and all
PAUSES = (1.0, 2.0, 5.0, 10.0, 30.0)  # seconds, between attempts while the receiver is down
REFUSED_SECONDS = 900.0  # until one that refuses is tried again: its key may be corrected by then
MOST_SECONDS = 3600.0  # the longest wait that a receiver may ask for
# Request Timeout, Too Early (RFC 8470) and Too Many Requests ask for another try, as any 5xx does;
# the other 4xx will not change before a person changes something.
TEMPORARY = {408, 425, 429}


class NextBatch(Protocol):
    """Reads the next batch of one kind of report from where it is kept."""

    def __call__(self, cursor: DeliveryCursor, *, at_rest: bool) -> tuple[Any, DeliveryCursor]:
        """Return the next body, or None, and the cursor for when it is delivered."""


class Delivery(StrEnum):
    """What came of trying to deliver."""

    MOVED = "moved"
    NOTHING = "nothing"
    LATER = "later"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a receiver answered to one batch."""

    result: Delivery
    why: str = ""
    wait: float = 0.0
    """Seconds that it asks us to wait."""


class Feed:
    """Delivers one kind of report of one run.

    Several processes may try; a lock lets one of them at a time.
    """

    def __init__(
        self, kind: str, address: Address, spool: DeliveryFolder, next_batch: NextBatch
    ) -> None:
        self.kind = kind
        self.pause = 0.0
        """Seconds to wait before the next attempt."""
        self._address = address
        self._spool = spool
        self._next_batch = next_batch
        self._cursor = DeliveryCursor()
        self._failures = 0

    def hurry(self) -> None:
        """Start again with short pauses: the flow is about to end."""
        self._failures = 0

    def has_more(self) -> bool:
        """Whether something is not delivered yet."""
        return self._next_batch(self._where(), at_rest=True)[0] is not None

    async def deliver_next(self, client: httpx.AsyncClient, *, at_rest: bool) -> Delivery:
        """Deliver the next batch, if there is one.

        Args:
            client: sends it.
            at_rest: whether nothing more comes.
        """
        self.pause = 0.0
        try:
            async with locked(self._spool.lock(self.kind), wait=False) as alone:
                if not alone:  # reconcile or another flow delivers; it sends ours too
                    return Delivery.NOTHING
                return await self._deliver(client, at_rest=at_rest)
        except OSError as error:  # a full disk, say: the batch may be sent again
            return self._later(Receipt(Delivery.LATER, f"{type(error).__name__}: {error.strerror}"))

    async def _deliver(self, client: httpx.AsyncClient, *, at_rest: bool) -> Delivery:
        cursor = self._where()
        # In a thread: a chunk of the metrics is read and parsed, and a disk may be slow.
        body, after = await asyncio.to_thread(self._next_batch, cursor, at_rest=at_rest)
        if body is None:
            if after == cursor:
                return Delivery.NOTHING
            # Only lines that are not reported, such as repeated steps: move past them.
            self._advance(after)
            return Delivery.MOVED
        receipt = await _post(client, self._address, body)
        if receipt.result is Delivery.MOVED:
            if self._failures or cursor.refused:
                logger().info("%s takes %s again", self._address.shown, self.kind)
            self._failures = 0
            self._advance(replace(after, refused=False, retry_at=0.0, given_up=False))
            return Delivery.MOVED
        if receipt.result is Delivery.REFUSED:
            return self._refused(cursor, receipt)
        if receipt.wait:  # noted, because reconcile must respect it too
            self._advance(replace(cursor, retry_at=time.time() + receipt.wait))
        return self._later(receipt)

    def _where(self) -> DeliveryCursor:
        """Return how far we are: another process may be farther, and our note may have failed."""
        # The farther of the two. With the note alone, a disk that takes no writes would have us
        # send the same batch for ever; with ours alone, what another process sent would be sent
        # again.
        noted = self._spool.cursor(self.kind)
        return noted if noted.offset >= self._cursor.offset else self._cursor

    def _advance(self, cursor: DeliveryCursor) -> None:
        # Ours first: it must hold even when writing the note fails.
        self._cursor = cursor
        self._spool.save_cursor(self.kind, cursor)

    def _refused(self, cursor: DeliveryCursor, receipt: Receipt) -> Delivery:
        if not cursor.refused:
            logger().warning(
                "%s refuses our %s (%s). They are kept and sent again every %g minutes. "
                "Check the address, its key and the ids.",
                self._address.shown,
                self.kind,
                receipt.why,
                REFUSED_SECONDS / 60,
            )
        self.pause = REFUSED_SECONDS
        self._advance(replace(cursor, refused=True, retry_at=time.time() + REFUSED_SECONDS))
        return Delivery.REFUSED

    def _later(self, receipt: Receipt) -> Delivery:
        if not self._failures:  # once per outage, not once per attempt
            logger().warning(
                "%s takes no %s at the moment (%s). They are kept and sent again.",
                self._address.shown,
                self.kind,
                receipt.why,
            )
        growing = PAUSES[min(self._failures, len(PAUSES) - 1)]
        self._failures += 1
        self.pause = max(growing, receipt.wait)
        return Delivery.LATER


def feeds_of(run: RunFolder, platform: Platform) -> list[Feed]:
    """Return what a run reports and where to; nothing for a run that does not report."""
    spool = Spool(run)
    who = spool.who()
    if who is None:
        return []

    def metrics(cursor: DeliveryCursor, *, at_rest: bool) -> tuple[Any, DeliveryCursor]:
        points, after = next_points(run.metrics, cursor, at_rest=at_rest)
        return ({"job_id": who.job_id, "metrics": points} if points else None), after

    def alerts(cursor: DeliveryCursor, *, at_rest: bool) -> tuple[Any, DeliveryCursor]:
        del at_rest
        return next_alert(spool, cursor)

    kinds = ((METRICS, platform.metrics, metrics), (ALERTS, platform.alerts, alerts))
    return [Feed(kind, where, spool, batch) for kind, where, batch in kinds if where]


async def _post(client: httpx.AsyncClient, address: Address, body: Any) -> Receipt:
    """Send one request. What an exception says is not quoted: it might quote a header."""
    try:
        # httpx's own timeouts are for each read or write, so a receiver that trickles would
        # never meet one: https://www.python-httpx.org/advanced/timeouts/
        async with asyncio.timeout(POST_SECONDS):
            headers = dict(address.headers)
            response = await client.request(address.method, address.url, json=body, headers=headers)
    except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
        return Receipt(Delivery.LATER, f"no answer: {type(error).__name__}")
    if response.is_success:
        return Receipt(Delivery.MOVED)
    why = f"HTTP status {response.status_code}"
    if response.is_server_error or response.status_code in TEMPORARY:
        asked = retry_after(response.headers.get("Retry-After")) or 0.0
        return Receipt(Delivery.LATER, why, min(MOST_SECONDS, asked))
    return Receipt(Delivery.REFUSED, why)
