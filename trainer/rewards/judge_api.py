"""Asking a model behind an API like OpenAI's, which may be busy, broken or silent.

https://platform.openai.com/docs/api-reference/chat/create, as many servers speak it.
"""

from __future__ import annotations

import asyncio
import math
import random
import re
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from trainer.config.rewards import JudgeConfig
from trainer.contract.errors import ConfigError
from trainer.rewards.counts import COST, Counts

if TYPE_CHECKING:
    import httpx

FIELD = "training.reward_judge"
PASSING = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529})
"""The HTTP statuses after which the same request may well succeed."""
CLOSED = frozenset({401, 403, 404, 405})
"""Those of a server that wants another key, or has no such model or address."""
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds; doubled from one try to the next
LONGEST_WAIT = 600.0  # seconds that a server may ask us to wait
LOOK_SECONDS = 1.0  # between two signs of life
THOUGHTS = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL)
SHOWN = 200  # characters of a server's answer in a message


@dataclass(frozen=True, slots=True)
class Opinion:
    """What the judge has said."""

    text: str
    why_none: str = ""
    """Why there is nothing in it to read a score from; empty where there is."""


class NoOpinion(Exception):
    """A request that came to nothing."""

    def __init__(
        self, why: str, more: str = "", *, passes: bool, wait: float | None = None
    ) -> None:
        super().__init__(why)
        self.why = why
        self.more = more
        """What the server says of it."""
        self.passes = passes
        """Whether to try again."""
        self.wait = wait
        """How long the server asks us to wait, in seconds."""


class ChatApi:
    """Sends requests, a limited number at a time, and repeats those that failed for a while."""

    def __init__(self, settings: JudgeConfig, key: str | None, counts: Counts) -> None:
        self._settings = settings
        self._key = key
        self._counts = counts
        # Not the global generator, on which it depends what the model samples next.
        self._random = random.Random()  # noqa: S311 - no secret
        self._has_answered = False
        self._not_before = 0.0
        """Until then nothing is sent: one answer of 429 is meant for all requests."""

    def ask_all(
        self, requests: Sequence[str], done: Callable[[int, Opinion | NoOpinion], None]
    ) -> None:
        """Ask everything, and call `done` with each number and what came of it.

        Raises:
            ConfigError: the server refuses the key, or knows no such model or address.
        """
        asyncio.run(self._ask_all(requests, done))

    async def _ask_all(
        self, requests: Sequence[str], done: Callable[[int, Opinion | NoOpinion], None]
    ) -> None:
        import httpx  # here: most trainings ask nobody

        free = asyncio.Semaphore(self._settings.concurrency)
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        # Redirects are not followed: the key would go along.
        limits = httpx.Limits(max_connections=self._settings.concurrency)
        seconds = self._settings.timeout_seconds
        async with (
            httpx.AsyncClient(headers=headers, timeout=seconds, limits=limits) as client,
            asyncio.TaskGroup() as group,
        ):
            alive = group.create_task(self._be_alive())

            async def ask(number: int) -> None:
                async with free:
                    try:
                        found: Opinion | NoOpinion = await self._patiently(client, requests[number])
                    except NoOpinion as error:
                        found = error
                    done(number, found)

            await asyncio.gather(*(group.create_task(ask(i)) for i in range(len(requests))))
            alive.cancel()

    async def _be_alive(self) -> None:
        while True:
            self._counts.alive()
            await asyncio.sleep(LOOK_SECONDS)

    async def _patiently(self, client: httpx.AsyncClient, request: str) -> Opinion:
        for tried in range(self._settings.max_retries + 1):
            await asyncio.sleep(max(0.0, self._not_before - time.monotonic()))
            try:
                return await self._once(client, request)
            except NoOpinion as error:
                if not error.passes or tried == self._settings.max_retries:
                    raise
                pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2**tried) * (1 + self._random.random()) / 2
                if error.wait is not None:
                    if error.wait > LONGEST_WAIT:
                        raise
                    self._not_before = max(self._not_before, time.monotonic() + error.wait)
                    pause = error.wait
            self._counts.add(f"{COST}tried again")
            await asyncio.sleep(pause)
        raise AssertionError("the last try returns or raises")

    async def _once(self, client: httpx.AsyncClient, request: str) -> Opinion:
        import httpx

        body = {
            **self._settings.parameters,
            "model": self._settings.model,
            "messages": [{"role": "user", "content": request}],
        }
        seconds = self._settings.timeout_seconds
        self._counts.add(f"{COST}calls")
        try:
            # The whole request, as a server that sends a byte now and then would never time out.
            async with asyncio.timeout(seconds):
                url = f"{self._settings.base_url}/chat/completions"
                response = await client.post(url, json=body)
        except TimeoutError:
            raise NoOpinion(f"no answer within {seconds:g} s", passes=True) from None
        except httpx.HTTPError as error:
            why = f"no connection ({type(error).__name__})"
            raise NoOpinion(why, passes=True) from None
        if response.status_code != httpx.codes.OK:
            self._refuse(response)
        return self._reply(response)

    def _refuse(self, response: httpx.Response) -> None:
        """Raise what a status other than 200 means.

        Raises:
            NoOpinion: this request is not answered.
            ConfigError: none will be.
        """
        status, said = response.status_code, self._said(response)
        # Where it has answered before, something in this request may have been what it refuses.
        if not self._has_answered and (status in CLOSED or response.is_redirect):
            variable = self._settings.api_key_variable
            key = f"the key in {variable}" if variable else "whether a key is needed"
            raise ConfigError(
                f"{FIELD}: {self._settings.base_url} answers HTTP {status}"
                f"{f': {said}' if said else ''}.",
                f"Check base_url, model and {key}.",
            )
        # Of two kinds of 429 one does not pass: the account is out of money.
        passes = status in PASSING and "insufficient_quota" not in said
        raise NoOpinion(f"HTTP {status}", said, passes=passes, wait=_asked_wait(response))

    def _said(self, response: httpx.Response) -> str:
        """Return what a server says of an error, without the key, which some repeat, or nothing."""
        text = response.text
        with suppress(ValueError, AttributeError):
            error = response.json().get("error")
            if isinstance(error, dict):
                code = error.get("code") or error.get("type") or ""
                text = f"{error.get('message') or ''}{f' [{code}]' if code else ''}"
            elif isinstance(error, str):
                text = error
        if self._key:
            text = text.replace(self._key, "…")
        words = " ".join("".join(c if c.isprintable() else " " for c in text).split())
        return words[:SHOWN].rstrip(".")

    def _reply(self, response: httpx.Response) -> Opinion:
        try:
            answer = response.json()
            choice = answer["choices"][0]
            message = choice["message"]
            content, refusal = message.get("content"), message.get("refusal")
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            # A page of a proxy in between, or an error with the status of a success.
            raise NoOpinion("HTTP 200 with something other than an answer", passes=True) from None
        self._has_answered = True
        self._count_tokens(answer.get("usage"))
        if choice.get("finish_reason") == "length":
            return Opinion("", "its reply was cut before its end: raise max_tokens in parameters")
        if choice.get("finish_reason") == "content_filter" or refusal:
            return Opinion("", "it refused")
        # What a model thought (reasoning_content, or between tags) is not what it decided.
        text = THOUGHTS.sub("", _text(content)).strip()
        return Opinion(text, "" if text else "its reply was empty")

    def _count_tokens(self, usage: Any) -> None:
        for name in ("prompt_tokens", "completion_tokens"):
            count = usage.get(name) if isinstance(usage, dict) else None
            if type(count) is int and count > 0:
                self._counts.add(f"{COST}{name.replace('_', ' ')}", count)


def _text(content: Any) -> str:
    """Return the text of a content: one, or a list of parts."""
    if isinstance(content, list):
        parts = (part.get("text") for part in content if isinstance(part, dict))
        return "".join(part for part in parts if isinstance(part, str))
    return content if isinstance(content, str) else ""


def _asked_wait(response: httpx.Response) -> float | None:
    """Return how long to wait by Retry-After (RFC 9110, 10.2.3): seconds, or a date."""
    text = response.headers.get("retry-after", "")
    try:
        seconds = float(text)
    except ValueError:
        try:
            date = parsedate_to_datetime(text)
        except ValueError:
            return None
        # "-0000" gives a time without a zone, which means UTC.
        date = date if date.tzinfo else date.replace(tzinfo=UTC)
        seconds = (date - datetime.now(UTC)).total_seconds()
    return max(0.0, seconds) if math.isfinite(seconds) else None
