"""Talking to a cloud's REST API: paced, bounded in time, and never hiring twice.

What every provider shares is here; what an answer means is the provider's own. A call that is
safe to repeat is repeated with growing pauses; one that is not, such as a create, is sent once,
and `Unanswered` says that its fate is unknown.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import ssl
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from typing import Any, TypeVar

import httpx

from trainer.contract.errors import ConnectionLost, RateLimited

T = TypeVar("T")
CONNECT_SECONDS = 10.0
READ_SECONDS = 30.0
WHOLE_SECONDS = 60.0  # beyond the time of silence allowed: for an answer that drips in
PAUSES = (0.5, 1.0, 2.0, 4.0)  # seconds between tries of a call that may be repeated
RATE_PATIENCE = 180.0  # seconds in all that a call waits because the provider says so
NO_CONTENT = 204
RATE_PAUSE = 5.0  # seconds to wait after a 429 that does not say how long
LEAST_RATE_PAUSE = 0.4  # after one that says 0: else it would be asked again and again
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


@dataclass(slots=True)
class Pace:
    """The earliest moments at which calls of one kind may go out; shared by all threads."""

    interval: float = 0.0
    """Seconds between two calls."""
    _next: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def reserve(self) -> float:
        """Take the next free moment and return the seconds until then."""
        with self._lock:
            now = time.monotonic()
            moment = max(now, self._next)
            # Reserved even if the caller is cancelled while it waits: an unused moment costs less
            # than one given out twice.
            self._next = moment + self.interval
            return moment - now

    def hold(self, seconds: float) -> None:
        """Make every call wait until `seconds` have passed."""
        with self._lock:
            self._next = max(self._next, time.monotonic() + seconds)


# Of the process and not of an `Api`: providers make a new one for every call, and all of them
# together must keep to the account's limits.
_paces: dict[tuple[str, str], Pace] = {}
_shared: dict[tuple[str, str], tuple[float, asyncio.Task[Any]]] = {}


class Api:
    """One account of one provider."""

    def __init__(
        self,
        provider: str,
        base_url: str,
        headers: Mapping[str, str],
        intervals: Mapping[str, float] | None = None,
    ) -> None:
        """Describe the account.

        Args:
            provider: its name, for messages.
            base_url: of the API, without a trailing slash.
            headers: with the credentials; they are sent and never shown.
            intervals: seconds between two calls, by the name of the bucket; "" is the bucket
                that every call takes from.
        """
        self.provider = provider
        self.base_url = base_url.rstrip("/")
        self._headers = {"User-Agent": _agent(), "Accept": "application/json", **headers}
        self._intervals = dict(intervals or {})
        # Accounts are told apart by a digest, so that no key of an account becomes the key of a
        # dictionary that a log or a traceback could show.
        secrets = repr(sorted(headers.items())).encode()
        self._account = f"{self.base_url} {hashlib.sha256(secrets).hexdigest()}"

    def pace(self, bucket: str = "") -> Pace:
        """Return the pace that all runs of this process share for this account."""
        key = (self._account, bucket)
        return _paces.setdefault(key, Pace(self._intervals.get(bucket, 0.0)))

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

        Raises:
            Unanswered: with `once`; it was sent, and its fate is unknown.
            ConnectionLost: the provider cannot be reached or fails, naming the host.
            RateLimited: it asked to wait longer than three minutes in all.
        """
        waited = 0.0
        tries = 0
        while True:
            waited += await self._wait(bucket, waited)
            trouble, answer, sent = await self._send(method, path, params, body, read_seconds)
            # Not counted as a try, and repeated even for a call that is sent once: a 429 says that
            # nothing was done.
            if answer and answer.status == 429:
                self.pace(bucket).hold(self.pause_after_429(answer, bucket))
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
        try:
            asked = float(answer.headers.get("Retry-After", RATE_PAUSE))
        except ValueError:  # a date, which HTTP allows and none of these APIs sends
            asked = RATE_PAUSE
        # Bounded on both sides, because it is a number that somebody else wrote.
        return max(LEAST_RATE_PAUSE, min(asked, LONGEST_RATE_PAUSE))

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
            task = asyncio.ensure_future(fetch())
            _shared[key] = (now, task)
        # Shielded: one job that is cancelled must not take the answer from all others.
        return await asyncio.shield(task)

    def forget(self, name: str) -> None:
        """Make the next `shared` of this name ask again."""
        _shared.pop((self._account, name), None)

    async def _wait(self, bucket: str, waited: float) -> float:
        """Wait until a call may go out, and return the seconds that it took.

        Raises:
            RateLimited: it would take too long, with what was waited before.
        """
        total = 0.0
        # The scarce bucket first: a moment that is reserved in the common one is soon.
        for name in [bucket, ""] if bucket else [""]:
            seconds = self.pace(name).reserve()
            total += seconds
            if waited + total > RATE_PATIENCE:
                raise RateLimited(f"{self.provider} asks to wait {waited + total:.0f} s.")
            await asyncio.sleep(seconds)
        return total

    async def _send(
        self,
        method: str,
        path: str,
        params: Mapping[str, Any] | None,
        body: Any,
        read_seconds: float,
    ) -> tuple[str, Answer | None, bool]:
        """Return what went wrong, the answer if there is one, and whether the request went out."""
        timeout = httpx.Timeout(read_seconds, connect=CONNECT_SECONDS)
        try:
            async with (
                asyncio.timeout(read_seconds + WHOLE_SECONDS),
                # A client for each call: its connections belong to one event loop, and every
                # command and every flow run has a loop of its own.
                httpx.AsyncClient(verify=_tls(), timeout=timeout) as client,
            ):
                response = await client.request(
                    method,
                    self.base_url + path,
                    params=params,
                    json=body,
                    headers=self._headers,
                )
        # Nothing went out, so even a create may be tried again.
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            return str(error) or type(error).__name__, None, False
        except httpx.HTTPError as error:
            return str(error) or type(error).__name__, None, True
        except TimeoutError:
            return "an answer that never ended", None, True
        answer = _answer(response)
        # A gateway answers 502 or 504 also when the service behind it did what was asked.
        if response.status_code >= 500:
            return f"HTTP {response.status_code}", answer, True
        if answer.ok and isinstance(answer.data, str):
            return "an answer that is not JSON", answer, True
        if answer.ok and answer.data is None and response.status_code != NO_CONTENT:
            return "an answer without content", answer, True
        return "", answer, True

    def _host(self) -> str:
        return f"{self.provider} ({httpx.URL(self.base_url).host})"


def _answer(response: httpx.Response) -> Answer:
    try:
        data = response.json() if response.content else None
    except ValueError:
        data = response.text
    return Answer(status=response.status_code, data=data, headers=response.headers)


@cache
def _agent() -> str:
    """Return our User-Agent; cached, because looking up a version reads files."""
    return f"training-orchestrator/{version('training-orchestrator')}"


@cache
def _tls() -> ssl.SSLContext:
    """Return one context for all calls: making it takes longer than most of them."""
    return httpx.create_ssl_context()
