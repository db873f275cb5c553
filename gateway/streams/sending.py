"""A stream to one client, over a WebSocket or as Server-Sent Events, with a deadline for each send."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from fastapi import WebSocket
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from blocks.task_scope import TaskScope
from gateway.streams.feed import JobFeed, Joined
from gateway.streams.hub import Streams
from gateway.streams.messages import START, Message, StreamCursor
from gateway.streams.subscription import TooSlow

SEND_SECONDS = 10.0
ALIVE_SECONDS = 15.0  # between two signs of life of Server-Sent Events: proxies close what is idle
TRY_AGAIN_LATER, INTERNAL_ERROR, POLICY_VIOLATION = 1013, 1011, 1008
WORDS = dict.fromkeys(
    (TRY_AGAIN_LATER, INTERNAL_ERROR), "come back with ?after= and the last cursor"
) | {POLICY_VIOLATION: "what you came with counts no more"}
LOOK_SECONDS = 1.0  # between two looks at whether a client is let in still
Put = Callable[[Message], Awaitable[None]]
log = logging.getLogger(__name__)


class NoLongerLetIn(Exception):
    """The client's key was revoked, or its session has ended."""


class Replaced(Exception):
    """The job has another run than before; it is the argument."""


@dataclass(frozen=True, slots=True)
class StreamTerms:
    """On which a stream goes on."""

    is_let_in: Callable[[], Awaitable[bool]]
    """Whether the client may see the job still."""
    present_run: Callable[[], Awaitable[str | None]]
    """The id of the job's run as it is now: that of a draft is another one once it is submitted."""


async def deliver(feed: JobFeed, joined: Joined, after: StreamCursor | None, put: Put) -> None:
    """Send a client all that it has missed, and then what comes, for as long as it takes it.

    Args:
        feed: of the job.
        joined: the client.
        after: what it has; None: it is new.
        put: sends a message.

    Raises:
        TooSlow: it did not take a message in time, or has let too much pile up.
    """

    async def send(message: Message) -> None:
        try:
            async with asyncio.timeout(SEND_SECONDS):
                await put(message)
        except TimeoutError:
            raise TooSlow from None

    async for message in feed.missed(joined, after):
        await send(message)
    while True:
        await send(await joined.subscription.take())
        if (step := joined.subscription.take_gap()) is not None:
            async for message in feed.since(step):
                await send(message)


async def serve_websocket(
    websocket: WebSocket, streams: Streams, job: str, after: StreamCursor | None, terms: StreamTerms
) -> None:
    """Stream a job to an accepted WebSocket until either side ends it."""

    async def put(message: Message) -> None:
        await websocket.send_text(message.text)

    error = await _failure(
        streams, _whole_job(streams, job, after, terms, put), _until_closed(websocket)
    )
    if error is not None:
        code = TRY_AGAIN_LATER if isinstance(error, TooSlow) else INTERNAL_ERROR
        if isinstance(error, NoLongerLetIn):
            code = POLICY_VIOLATION
        # To one that does not read this may not come through either: see `PromptWebSocket`.
        with suppress(TimeoutError, RuntimeError, WebSocketDisconnect):
            async with asyncio.timeout(1):
                await websocket.close(code, WORDS[code])


async def _whole_job(
    streams: Streams, job: str, after: StreamCursor | None, terms: StreamTerms, put: Put
) -> None:
    """Deliver a job, from one run to the next where it was a draft and is submitted.

    Raises:
        TooSlow: as `deliver` has it.
        NoLongerLetIn: the client may see it no more.
    """
    while True:
        async with streams.watching(job) as (feed, joined):
            try:
                async with TaskScope() as scope:
                    scope.start(_until_dismissed(terms))
                    scope.start(_until_replaced(feed, terms))
                    await scope.result_of(deliver(feed, joined, after, put))
            except Replaced as now:
                job, after = str(now), START


async def _until_dismissed(terms: StreamTerms) -> None:
    while True:
        if not await terms.is_let_in():
            raise NoLongerLetIn
        await asyncio.sleep(LOOK_SECONDS)


async def _until_replaced(feed: JobFeed, terms: StreamTerms) -> None:
    await feed.gone.wait()
    # One that was deleted has no other; what was measured of it is here still.
    if (present := await terms.present_run()) not in {None, feed.job}:
        raise Replaced(present)


async def _failure(
    streams: Streams, delivery: Coroutine[Any, Any, None], *others: Coroutine[Any, Any, None]
) -> BaseException | None:
    """Deliver until that, or any of the others, ends; return why it failed, if the client is there."""
    tasks = [asyncio.create_task(each) for each in (delivery, *others)]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        error, *_ = await asyncio.gather(*tasks, return_exceptions=True)
    if error is None or isinstance(error, asyncio.CancelledError | WebSocketDisconnect | OSError):
        return None
    if isinstance(error, NoLongerLetIn):
        return error
    if isinstance(error, TooSlow):
        streams.cut_off += 1
    else:
        log.warning("a stream ended (%s: %s)", type(error).__name__, error)
    return error


async def _until_closed(websocket: WebSocket) -> None:
    """Read what the client sends, which means nothing, until it closes."""
    while (await websocket.receive())["type"] != "websocket.disconnect":
        pass


class EventStream(Response):
    """A stream of Server-Sent Events; a client that does not take them is cut off."""

    media_type = "text/event-stream"

    def __init__(
        self, streams: Streams, job: str, after: StreamCursor | None, terms: StreamTerms
    ) -> None:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(headers=headers)
        del self.headers["content-length"]
        self._streams, self._job, self._after, self._terms = streams, job, after, terms

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send events until the client goes away or is too slow."""

        async def write(body: bytes, *, more: bool = True) -> None:
            await send({"type": "http.response.body", "body": body, "more_body": more})

        async def put(message: Message) -> None:
            await write(message.as_event())

        await send(
            {"type": "http.response.start", "status": 200, "headers": self.raw_headers},
        )
        await write(b"retry: 1000\n\n")
        delivery = _whole_job(self._streams, self._job, self._after, self._terms, put)
        await _failure(self._streams, delivery, _until_gone(receive), _sign_of_life(write))
        with suppress(TimeoutError, OSError):
            async with asyncio.timeout(1):
                await write(b"", more=False)


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _sign_of_life(write: Callable[[bytes], Awaitable[None]]) -> None:
    while True:
        await asyncio.sleep(ALIVE_SECONDS)
        await write(b": still here\n\n")
