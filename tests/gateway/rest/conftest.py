"""The service in this process, asked without a network, with the tests' Prefect behind it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI

from gateway.rest.app import create_app
from gateway.rest.settings import ServiceSettings


@pytest.fixture
async def app(prefect_api: str) -> AsyncIterator[FastAPI]:
    """Yield a service that is being served."""
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
