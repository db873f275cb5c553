"""A job's stream as Server-Sent Events, taken up again where it broke off."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx

from gateway.client.refusals import ServiceUnreachable, rejected
from gateway.client.wire import BUSY, FIRST_PAUSE, LONGEST_PAUSE
from trainer.contract.job_directory import JobState

SILENCE_SECONDS = 60.0  # without a byte, after which the connection is taken for dead


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamedEvent:
    """One message of a job."""

    type: str
    """metrics, status or notification."""
    data: dict[str, Any]
    cursor: str | None
    """From which a stream goes on behind this message."""

    @property
    def is_last(self) -> bool:
        """Whether the job is at rest, so that nothing follows for now."""
        state = str(self.data.get("state") or "")
        return self.type == "status" and state in set(JobState) and JobState(state).at_rest


async def streamed(
    client: httpx.AsyncClient, path: str, *, after: str | None, retries: int
) -> AsyncIterator[StreamedEvent]:
    """Yield a job's messages until it is at rest.

    Args:
        client: of the service.
        path: of the stream.
        after: the cursor of the last message that the caller has; None: from now on.
        retries: how often in a row it is connected to in vain.

    Raises:
        OrchestratorError: see `gateway.client.refusals`.
    """
    cursor, failures = after, 0
    while True:
        try:
            async for event in _connected(client, path, cursor):
                failures, cursor = 0, event.cursor or cursor
                yield event
                if event.is_last:
                    return
        except httpx.TransportError as error:
            if failures >= retries:
                name = type(error).__name__
                raise ServiceUnreachable(f"{client.base_url} breaks off ({name}).") from None
        # The service closes the stream of a reader that is too slow; it catches up by the cursor.
        await asyncio.sleep(min(LONGEST_PAUSE, FIRST_PAUSE * 2**failures))
        failures += 1


async def _connected(
    client: httpx.AsyncClient, path: str, cursor: str | None
) -> AsyncIterator[StreamedEvent]:
    headers = {"accept": "text/event-stream", **({"last-event-id": cursor} if cursor else {})}
    patience = httpx.Timeout(client.timeout.connect, read=SILENCE_SECONDS)
    async with client.stream("GET", path, headers=headers, timeout=patience) as answer:
        if answer.status_code in BUSY:
            return
        if not answer.is_success:
            await answer.aread()
            raise rejected(answer)
        fields: dict[str, str] = {}
        # https://html.spec.whatwg.org/multipage/server-sent-events.html: an empty line ends a message,
        # a line that begins with a colon is a comment, several `data` are lines of one text.
        async for line in answer.aiter_lines():
            if not line:
                if "data" in fields:
                    yield _event_of(fields)
                fields = {k: v for k, v in fields.items() if k == "id"}
                continue
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            fields[name] = (
                f"{fields[name]}\n{value}" if name == "data" and name in fields else value
            )


def _event_of(fields: dict[str, str]) -> StreamedEvent:
    record = json.loads(fields["data"])
    record = record if isinstance(record, dict) else {"data": record}
    inner = record.get("data")
    return StreamedEvent(
        type=str(record.get("type") or fields.get("event") or "message"),
        data=inner if isinstance(inner, dict) else record,
        cursor=fields.get("id"),
    )
