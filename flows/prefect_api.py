"""Prefect's API as a run calls it: trouble of its own never harms a job.

What must be known or told waits for an API that is away; what only looks, or shows something, asks
once and goes on. Prefect's client does neither: it tries for a minute and then ends the run.
"""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID
from weakref import WeakKeyDictionary

import httpx
from prefect import get_client
from prefect.client.orchestration import PrefectClient
from prefect.context import (
    AsyncClientContext,
    FlowRunContext,
    SettingsContext,
    get_settings_context,
)
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from flows.logger import logger

ONCE_SECONDS = 10.0  # for a call that does not wait: an API may be silent without refusing
CREATE_SECONDS = 120.0  # the same for what creates something; a busy database takes its time
RETRY_SECONDS = (0.2, 1.0, 2.0, 5.0, 10.0)  # the first: a database that was busy for a moment
WRITES_AT_ONCE = 2
READS_AT_ONCE = 6
BUSY_SECONDS = (0.2, 0.5)  # before a call that asks once is repeated after all
REPEATABLE = {"PATCH", "PUT", "DELETE"}
READING = ("/filter", "/count")  # how the address of a POST ends that writes nothing
# Request Timeout, Too Early and Too Many Requests ask for another try, as any 5xx does.
TEMPORARY = {408, 425, 429}

UNANSWERED = (httpx.HTTPError, ObjectNotFound)
"""What a call raises to which there is no answer: an API that is away or refuses, or one that does not
know the run any more, because its database was reset. By neither may a job end."""

NO_RESULTS = Path(os.devnull)
"""Where the result of a flow would be stored that is never stored. Told no place, Prefect's engine asks
its API for one: several times a run, holding up all others, on connections that nobody closes."""

T = TypeVar("T")
_was_away = False
_settings: tuple[SettingsContext, SettingsContext] | None = None
"""Those in force when a client was made last, and the same without Prefect's own tries."""
_turns: WeakKeyDictionary[
    asyncio.AbstractEventLoop, tuple[asyncio.Semaphore, asyncio.Semaphore]
] = WeakKeyDictionary()
_patience: ContextVar[float] = ContextVar("seconds for Prefect's API", default=math.inf)


def is_away(error: BaseException) -> bool:
    """Whether the API cannot answer now; a refusal is an answer."""
    if isinstance(error, httpx.HTTPStatusError):
        code = error.response.status_code
        return code >= httpx.codes.INTERNAL_SERVER_ERROR or code in TEMPORARY
    return isinstance(error, httpx.TransportError)


def was_away() -> bool:
    """Whether the API was away at some time since this process began."""
    return _was_away


async def persistently(call: Callable[[], Awaitable[T]]) -> T:
    """Return what `call` returns, calling again for as long as Prefect's API does not answer."""
    global _was_away
    attempt = 0
    while True:
        try:
            return await call()
        except httpx.HTTPError as error:
            if not is_away(error):
                raise
            _was_away = True
            pause = RETRY_SECONDS[min(attempt, len(RETRY_SECONDS) - 1)]
            if 0 < attempt < len(RETRY_SECONDS):  # said while it is news
                message = "Prefect's API fails (%s); trying again in %g s"
                logger().warning(message, type(error).__name__, pause)
            attempt += 1
            await asyncio.sleep(pause)


@contextmanager
def asking_once(seconds: float = ONCE_SECONDS) -> Iterator[None]:
    """Let calls in the body fail, with an `httpx.HTTPError`, where the API does not answer.

    Args:
        seconds: for the answer to one call. What is given up may still be carried out, so what
            must not be done twice is given as long as Prefect's own client gives it.
    """
    token = _patience.set(seconds)
    try:
        yield
    finally:
        _patience.reset(token)


@asynccontextmanager
async def prefect_client() -> AsyncIterator[PrefectClient]:
    """Give Prefect's client; its calls wait for an API that is away, except in `asking_once`."""
    async with get_client() as client:
        make_patient(client)
        yield client


@asynccontextmanager
async def patient_engine() -> AsyncIterator[None]:
    """Let Prefect's engine, where it runs in the body, wait for an API that is away."""
    # The engine takes the client of the context in which it is called.
    context = AsyncClientContext()
    make_patient(context.client)
    async with context:
        yield


def make_patient(client: PrefectClient) -> None:
    """Let all calls of a client, Prefect's own among them, wait for an API that is away."""
    http = client._client
    if getattr(http, "is_patient", False):
        return
    send = http.send
    # Prefect's client would try again by itself, after pauses that double without an end.
    without_retries = _without_retries()

    async def send_once(request: httpx.Request, **options: Any) -> httpx.Response:
        token = SettingsContext.__var__.set(without_retries)
        try:
            async with _turn_of(request):
                return await send(request, **options)
        finally:
            SettingsContext.__var__.reset(token)

    async def send_patiently(request: httpx.Request, **options: Any) -> httpx.Response:
        seconds = _patience.get()
        if math.isinf(seconds):
            return await persistently(lambda: send_once(request, **options))
        try:
            async with asyncio.timeout(seconds) as timer:
                return await _unless_busy(lambda: send_once(request, **options), request)
        except TimeoutError:
            if not timer.expired():
                raise
            raise httpx.ReadTimeout(f"no answer in {seconds:g} s", request=request) from None

    http.send = send_patiently  # type: ignore[method-assign]
    http.is_patient = True  # type: ignore[attr-defined]


async def _unless_busy(
    call: Callable[[], Awaitable[httpx.Response]], request: httpx.Request
) -> httpx.Response:
    """Call once more, at most twice, where the database was busy and nothing can be done twice."""
    for pause in BUSY_SECONDS if request.method in REPEATABLE or _only_reads(request) else ():
        try:
            return await call()
        except httpx.HTTPStatusError as error:
            if error.response.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                raise
        await asyncio.sleep(pause)
    return await call()


def _only_reads(request: httpx.Request) -> bool:
    return request.method == "GET" or request.url.path.endswith(READING)


def _turn_of(request: httpx.Request) -> asyncio.Semaphore:
    """Return what lets few requests of this process, all its runs together, be under way at a time.

    A hundred runs that write side by side keep a server with SQLite from answering any of them: it has
    one writer at a time and fifteen connections, refuses whoever read before another wrote, and lets
    all wait for a minute when one holds the lock that another connection needs.
    """
    loop = asyncio.get_running_loop()
    if loop not in _turns:
        _turns[loop] = asyncio.Semaphore(WRITES_AT_ONCE), asyncio.Semaphore(READS_AT_ONCE)
    writes, reads = _turns[loop]
    return reads if _only_reads(request) else writes


def _without_retries() -> SettingsContext:
    """Return the settings in force, but for Prefect's own tries."""
    global _settings
    # Kept: a change of settings takes 20 ms of CPU, and a flow makes a client every few seconds.
    now = get_settings_context()
    if _settings is None or _settings[0] is not now:
        with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}):
            _settings = now, get_settings_context()
    return _settings[1]


def make_engine_patient() -> None:
    """Make the client patient that Prefect's engine uses for the flow run that calls."""
    # A worker's process is the engine's own; `patient_engine` cannot come before it there.
    context = FlowRunContext.get()
    if context is not None and isinstance(context.client, PrefectClient):
        make_patient(context.client)


def deployment_id() -> UUID | None:
    """Return the deployment of the flow run that calls; None: it belongs to none."""
    # `prefect.runtime.deployment.id` asks the API where there is none, and blocks the loop for it.
    context = FlowRunContext.get()
    return context.flow_run.deployment_id if context and context.flow_run else None
