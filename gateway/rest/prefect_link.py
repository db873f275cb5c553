"""The one client of Prefect's API that all requests of a service share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import httpx
from fastapi import Depends, FastAPI
from fastapi.requests import HTTPConnection
from prefect import get_client
from prefect.client.orchestration import PrefectClient
from prefect.exceptions import PrefectHTTPStatusError

from gateway.prefect.connecting import refused, silent
from gateway.prefect.full_client import connect
from gateway.prefect.settings import PrefectSettings
from trainer.contract.errors import OrchestratorError


@asynccontextmanager
async def prefect_link(app: FastAPI) -> AsyncIterator[None]:
    """Keep `app.state.prefect`, a client, for as long as the application is served.

    Raises:
        ApiUnreachable: the API that is configured does not answer, or our own does not come up.
    """
    await asyncio.to_thread(connect)  # it may start a server
    async with get_client() as client:
        app.state.prefect = client
        yield


def _prefect(connection: HTTPConnection) -> PrefectClient:
    client: PrefectClient = connection.app.state.prefect
    return client


ERRORS_OF_CLIENT: tuple[type[Exception], ...] = (httpx.TransportError, PrefectHTTPStatusError)
"""What the client raises when the API does not answer, or refuses."""
Prefect = Annotated[PrefectClient, Depends(_prefect)]
"""A parameter of a route, or of a WebSocket, that is given the client."""


def in_our_words(error: Exception) -> OrchestratorError:
    """Return what Prefect's client raised, one of `ERRORS_OF_CLIENT`, as an error of ours."""
    settings = PrefectSettings()
    url = settings.url or ""
    if isinstance(error, PrefectHTTPStatusError):
        return refused(url, settings, error.response.status_code, error.response.text)
    return silent(url, error)
