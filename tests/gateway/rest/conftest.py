"""The service in this process, asked without a network, with the tests' Prefect behind it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest

from gateway.rest.app import create_app
from gateway.rest.settings import ServiceSettings


@pytest.fixture
async def service(prefect_api: str) -> AsyncIterator[httpx.AsyncClient]:
    """Yield a client of a service that is being served."""
    app = create_app(ServiceSettings())
    async with app.router.lifespan_context(app):
        # Its own answers to failures are looked at, and not the exceptions behind them.
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            yield client
