"""Requests to the service: with their key, tried again where that is safe, and errors as exceptions."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Mapping
from typing import Any

import httpx

from blocks.retry_after import retry_after
from gateway.client.refusals import NOT_JSON, RequestRejected, ServiceUnreachable, rejected

BUSY = {408, 425, 429, 502, 503, 504}
"""Statuses by which a service asks to be asked again."""
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 8.0  # seconds; each is twice the one before
LONGEST_WAIT = 60.0  # seconds that a service may ask for; what asks for more is refused


class Wire:
    """Sends requests by one client."""

    def __init__(self, client: httpx.AsyncClient, *, retries: int) -> None:
        self.client = client
        self._retries = retries

    async def get(self, path: str, **params: Any) -> Any:
        """Return what is at a path; parameters that are None are left out.

        Raises:
            OrchestratorError: see `gateway.client.refusals`.
        """
        given = {name: value for name, value in params.items() if value is not None}
        return await self._asked("GET", path, params=given)

    async def post(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Ask for something to be done, once however often it is sent, and return the answer.

        Raises:
            OrchestratorError: see `gateway.client.refusals`.
        """
        # The same for all tries: the service does what it has done before only once.
        headers = {"Idempotency-Key": str(uuid.uuid4())}
        return await self._asked("POST", path, json=body, headers=headers)

    async def _asked(self, method: str, path: str, **given: Any) -> Any:
        lost = False
        for left in range(self._retries, -1, -1):
            pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (self._retries - left))
            try:
                answer = await self.client.request(method, path, **given)
            except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
                if not left:
                    raise _silent(self.client, error) from None
            except httpx.TransportError as error:
                lost = True
                if not left:
                    raise _silent(self.client, error) from None
            else:
                if answer.is_success:
                    return _json(answer)
                asked_for = retry_after(answer.headers.get("retry-after")) or 0.0
                busy = answer.status_code in BUSY and asked_for <= LONGEST_WAIT
                if not (busy and left):
                    raise rejected(answer, again=lost)
                pause = max(pause, asked_for)
            # Not all at the same moment: clients that were cut off together come back one by one.
            await asyncio.sleep(pause * random.uniform(0.75, 1.25))  # noqa: S311 - no secret
        raise AssertionError("the last try returns or raises")


def _silent(client: httpx.AsyncClient, error: Exception) -> ServiceUnreachable:
    return ServiceUnreachable(f"{client.base_url} does not answer ({type(error).__name__}).")


def _json(answer: httpx.Response) -> Any:
    try:
        return answer.json()
    except ValueError:
        where = f"{answer.request.method} {answer.request.url}"
        raise RequestRejected(f"{where}: {NOT_JSON}", status=answer.status_code) from None
