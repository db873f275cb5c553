"""The service in this process, asked without a network, with the tests' Prefect behind it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from prefect import get_client

from deployments.deploy import deploy
from gateway.rest import application
from gateway.rest.application import create_app
from gateway.rest.settings import ServiceSettings

_deployed: set[str] = set()
"""The servers that have them: to compare those that are there takes a second."""


@pytest.fixture
async def app(prefect_api: str) -> AsyncIterator[FastAPI]:
    """Yield a service that is being served."""
    made = create_app(ServiceSettings())
    async with made.router.lifespan_context(made):
        yield made


@asynccontextmanager
async def gate_alone() -> AsyncIterator[FastAPI]:
    """Yield a service with its database and its gate, for what neither Prefect nor streams answer."""
    held = ("gateway.rest.database_link:database_link", "gateway.rest.access_link:access_link")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(application, "HELD", held)
        made = create_app(ServiceSettings())
        async with made.router.lifespan_context(made):
            yield made


def client_of(app: FastAPI, address: str, base_url: str) -> httpx.AsyncClient:
    """Return a client that asks a service from an address, without a network."""
    # Its own answers to failures are looked at, and not the exceptions behind them.
    transport = httpx.ASGITransport(app, raise_app_exceptions=False, client=(address, 4))
    return httpx.AsyncClient(transport=transport, base_url=base_url)


@pytest.fixture
async def service(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """Yield a client on the service's own computer."""
    async with client_of(app, "127.0.0.1", "http://127.0.0.1:8000") as client:
        yield client


@pytest.fixture
async def outsider(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """Yield a client somewhere else."""
    async with client_of(app, "203.0.113.7", "https://train.example.org") as client:
        yield client


async def socket_status(
    app: FastAPI, path: str, headers: dict[str, str] | None = None, query: str = ""
) -> int:
    """Ask for a WebSocket; return the status of its refusal, 101 if it was accepted."""
    sent: list[dict[str, Any]] = []
    given = {"host": "train.example.org"} | {n.lower(): v for n, v in (headers or {}).items()}
    scope = {
        "type": "websocket",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "headers": [(n.encode(), v.encode()) for n, v in given.items()],
        "client": ("203.0.113.7", 4),
        "server": ("127.0.0.1", 8000),
        "scheme": "ws",
        "subprotocols": [],
        "extensions": {"websocket.http.response": {}},
    }

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.disconnect" if sent else "websocket.connect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await app(scope, receive, send)
    first = sent[0]
    return 101 if first["type"] == "websocket.accept" else first.get("status", 403)


@pytest.fixture
async def deployed(service: httpx.AsyncClient, prefect_api: str) -> httpx.AsyncClient:
    """The service, with the deployments of its jobs."""
    if prefect_api not in _deployed:
        async with get_client() as client:
            await deploy(client, lambda _: None)
        _deployed.add(prefect_api)
    return service
