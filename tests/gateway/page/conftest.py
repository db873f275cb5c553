"""The service in this process, as a browser on this computer asks it, with jobs to show."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID

import httpx
import pytest

from gateway.metrics.store import MetricsStore
from gateway.prefect.client import connected
from gateway.rest.app import create_app
from gateway.rest.settings import ServiceSettings


class Browser(httpx.AsyncClient):
    """A client, with the service's store beside it."""

    store: MetricsStore


@pytest.fixture
async def browser(prefect_api: str) -> AsyncIterator[Browser]:
    app = create_app(ServiceSettings())
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with Browser(transport=transport, base_url="http://service") as client:
            client.store = app.state.metrics
            yield client


async def made_job(name: str, **training: object) -> UUID:
    """Create a run as a submitted job has one, and return its id."""
    asked = {"name": name, "training": {"model": "a/b", "dataset": {"path": "rows"}, **training}}
    return await asyncio.to_thread(lambda: connected().create_run(name, {"job": asked}))
