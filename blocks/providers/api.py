"""Talking to a cloud's REST API: paced, bounded in time, and never hiring twice.

What every provider shares is here; what an answer means is the provider's own. A call that is
safe to repeat is repeated with growing pauses; one that is not, such as a create, is sent once,
and `Unanswered` says that its fate is unknown.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import version
from typing import Any, TypeVar

import httpx

from blocks.providers.connections import client_of, new_client
from blocks.providers.pace import Pace
from blocks.retry_after import retry_after
from trainer.contract.errors import ConnectionLost, RateLimited

T = TypeVar("T")
Trace = Callable[[str, Any], Awaitable[None]]
CONNECT_SECONDS = 10.0
READ_SECONDS = 30.0
WHOLE_SECONDS = 60.0  # beyond the time of silence allowed: for an answer that drips in
PAUSES = (0.5, 1.0, 2.0, 4.0)  # seconds between tries of a call that may be repeated
RATE_PATIENCE = 180.0  # seconds in all that a call waits because the provider says so
NO_CONTENT = 204
RATE_PAUSE = 5.0  # seconds to wait after a 429 that does not say how long
LEAST_RATE_PAUSE = 0.4  # after one that says 0: else it would be asked again and again
OLD_SECONDS = 300.0  # after which nobody asks for an answer that was shared
LONGEST_RATE_PAUSE = 86_400.0  # no window is longer than a day, whatever a 429 says


class Unanswered(ConnectionLost):
    """The request went out, and no answer says what became of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back."""

    status: int
    data: Any
    """The JSON value; text where it was none."""
    headers: httpx.Headers

    @property
    def ok(self) -> bool:
        """Whether the status is 2xx."""
        return 200 <= self.status < 300


@dataclass(frozen=True, slots=True)
class Request:
    """What is sent."""

    method: str
    path: str
    params: Mapping[str, Any] | None
    body: Any
    read_seconds: float
    buckets: tuple[str, ...]
    once: bool
    headers: Mapping[str, str] | None = None


# Of the process and not of an `Api`: providers make a new one for every call.
_shared: dict[tuple[str, str], tuple[float, asyncio.Task[Any]]] = {}


class Api:
    """One account of one provider."""

    def __init__(
        self,
        provider: str,
        base_url: str,
        headers: Mapping[str, str],
        intervals: Mapping[str, float] | None = None,
        *,
        account: str,
        auth: httpx.Auth | None = None,
    ) -> None:
        """Describe the account.

        Args:
            provider: its name, for messages.
            base_url: of the API, without a trailing slash.
            headers: sent with every call and never shown.
            intervals: seconds between two calls, by the name of the bucket; "" is the bucket
                that every call takes from.
            account: what stays the same however its tokens change; no secret. Pace, connections
                and shared answers are those of the account.
            auth: signs the calls, where a header that stays the same does not.
        """
        self.provider = provider
        self.base_url = base_url.rstrip("/")
        self._headers = {"User-Agent": _agent(), "Accept": "application/json", **headers}
        self._auth = auth
        self._account = f"{self.base_url} {account}"
        self.pace = Pace(self._account, dict(intervals or {}))
        """Shared with every process of this computer that calls for this account."""

    async def call(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        body: Any = None,
        bucket: str = "",
        once: bool = False,
        read_seconds: float = READ_SECONDS,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send a request and return the answer, whatever its status below 500 but 429.

        Args:
            method: of HTTP.
            path: from the base URL on, with a leading slash.
            params: of the query.
            body: a JSON value.
            bucket: a further bucket that this call takes from.
            once: it must not be sent again when its fate is unknown.
            read_seconds: how long the provider may be silent.
            headers: of this call alone.

        Raises:
            Unanswered: with `once`; it was sent, and its fate is unknown.
            ConnectionLost: the provider cannot be reached or fails, naming the host.
            RateLimited: it asked to wait longer than three minutes in all.
        """
        waited = 0.0
        tries = 0
        while True:
            buckets = tuple({bucket, ""})
            waited += await self._turn(buckets, waited)
            request = Request(method, path, params, body, read_seconds, buckets, once, headers)
            trouble, answer, sent = await self._send(request)
            # Not counted as a try, and repeated even for a call that is sent once: a 429 says that
            # nothing was done.
            if answer and answer.status == 429:
                self.pace.hold(self.pause_after_429(answer, bucket), bucket)
                continue
            if answer and not trouble:
                self.observe(answer)
                return answer
            # A create may have succeeded although its answer was lost; sending it again could hire
            # a second machine, and the first would be forgotten.
            if once and sent:
                raise Unanswered(
                    f"{self._host()} gave no usable answer to {method} {path}: {trouble}."
                )
            if tries == len(PAUSES):
                raise ConnectionLost(
                    f"{self._host()} cannot be used: {trouble} ({method} {path}).",
                    "Check the network and the provider's status page; the call is tried again.",
                )
            await asyncio.sleep(PAUSES[tries] * random.uniform(0.7, 1.3))  # noqa: S311 - no secret
            tries += 1

    def observe(self, answer: Answer) -> None:
        """Look at an answer's headers; a provider that reports its limits there overrides this."""

    def pause_after_429(self, answer: Answer, bucket: str) -> float:
        """Return the seconds to wait after a 429."""
        del bucket
        asked = retry_after(answer.headers.get("Retry-After"))
        # Bounded on both sides, because it is a number that somebody else wrote.
        return max(
            LEAST_RATE_PAUSE, min(RATE_PAUSE if asked is None else asked, LONGEST_RATE_PAUSE)
        )

    async def read(
        self,
        path: str,
        seconds: float,
        *,
        params: Mapping[str, Any] | None = None,
        bucket: str = "",
    ) -> Answer:
        """Return the answer to a GET, at most `seconds` old: one call serves all who ask."""
        name = f"GET {path} {params or ''}"
        fetch = partial(self.call, "GET", path, params=params, bucket=bucket)
        return await self.shared(name, seconds, fetch)

    async def shared(self, name: str, seconds: float, fetch: Callable[[], Awaitable[T]]) -> T:
        """Return what `fetch` gives, at most `seconds` old: one call serves all who ask.

        Fifty jobs that wait for their machines ask the provider as often as one.
        """
        key = (self._account, name)
        now = time.monotonic()
        since, task = _shared.get(key, (0.0, None))
        usable = (
            task is not None
            # A task of another loop may never go on: asyncio.run ends its loop with the command.
            and task.get_loop() is asyncio.get_running_loop()
            and (not task.done() or now - since <= seconds)
            # A failure is not kept: the next caller gets a try of its own.
            and not (task.done() and (task.cancelled() or task.exception()))
        )
        if not usable or task is None:
            for old in [k for k, (at, t) in _shared.items() if t.done() and now - at > OLD_SECONDS]:
                del _shared[old]
            task = asyncio.ensure_future(fetch())
            _shared[key] = (now, task)
        # Shielded: one job that is cancelled must not take the answer from all others.
        return await asyncio.shield(task)

    def forget(self, name: str) -> None:
        """Make the next `shared` of this name ask again."""
        _shared.pop((self._account, name), None)

    async def _turn(self, buckets: tuple[str, ...], waited: float) -> float:
        """Wait until a call may go out, and return the seconds that it took.

        Raises:
            RateLimited: it would take too long, with what was waited before.
        """
        total = 0.0
        while seconds := self.pace.take(*buckets):
            if waited + total + seconds > RATE_PATIENCE:
                seconds += waited + total
                raise RateLimited(f"{self.provider} asks to wait {seconds:.0f} s.")
            await asyncio.sleep(seconds)
            total += seconds
        return total

    async def _send(self, request: Request) -> tuple[str, Answer | None, bool]:
        """Return what went wrong, the answer if there is one, and whether the request went out."""
        sent = False

        async def trace(event: str, _: Any) -> None:
            nonlocal sent
            if event.endswith(".send_request_headers.started"):
                sent = True
                self.pace.sent(*request.buckets)

        try:
            async with asyncio.timeout(request.read_seconds + WHOLE_SECONDS):
                response = await self._exchange(request, trace)
        # Where nothing went out, even a create may be tried again.
        except httpx.HTTPError as error:
            return str(error) or type(error).__name__, None, sent
        except TimeoutError:
            return "an answer that never ended", None, sent
        answer = _answer(response)
        # A gateway answers 502 or 504 also when the service behind it did what was asked.
        if response.status_code >= 500:
            return f"HTTP {response.status_code}", answer, True
        if answer.ok and isinstance(answer.data, str):
            return "an answer that is not JSON", answer, True
        # What is deleted, or will be, need not be shown once more.
        needs_content = request.method != "DELETE" and response.status_code != NO_CONTENT
        if answer.ok and answer.data is None and needs_content:
            return "an answer without content", answer, True
        return "", answer, True

    async def _exchange(self, request: Request, trace: Trace) -> httpx.Response:
        async with AsyncExitStack() as stack:
            if request.once:
                # On a connection of its own: one that the other side has just closed, being idle,
                # would leave the fate of a create unknown.
                client = await stack.enter_async_context(new_client())
            else:
                client = await client_of(self._account)
            return await client.request(
                request.method,
                self.base_url + request.path,
                params=request.params,
                json=request.body,
                headers={**self._headers, **(request.headers or {})},
                auth=self._auth,
                timeout=httpx.Timeout(request.read_seconds, connect=CONNECT_SECONDS),
                extensions={"trace": trace},
            )

    def _host(self) -> str:
        return f"{self.provider} ({httpx.URL(self.base_url).host})"


def _answer(response: httpx.Response) -> Answer:
    text = response.text
    # A refusal may quote what it was sent, and its words stand in messages and logs.
    sent = response.request.headers.get("Authorization", "").rpartition(" ")[2]
    if sent and not response.is_success:
        text = text.replace(sent, "***")
    try:
        # Python would read NaN and Infinity, which are no JSON, and no prices.
        data = json.loads(text, parse_constant=_not_json) if text else None
    except ValueError:
        data = text
    return Answer(status=response.status_code, data=data, headers=response.headers)


def _not_json(word: str) -> None:
    raise ValueError(f"{word} is not JSON")


@cache
def _agent() -> str:
    """Return our User-Agent; cached, because looking up a version reads files."""
    return f"training-orchestrator/{version('training-orchestrator')}"
