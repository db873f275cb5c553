"""The service in this process, as a browser on this computer asks it, with jobs to show."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID

import httpx
import pytest
from fastapi import FastAPI

from gateway.prefect.client import connected
from tests.gateway.rest.conftest import app as app
from tests.gateway.rest.conftest import client_of
from tests.gateway.rest.conftest import deployed as deployed
from tests.gateway.rest.conftest import outsider as outsider
from tests.gateway.rest.conftest import service as service


@pytest.fixture
async def browser(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """Yield what a browser on the service's own computer is."""
    async with client_of(app, "127.0.0.1", "http://127.0.0.1:8000") as client:
        client.headers["Accept"] = "text/html"
        yield client


async def made_job(name: str, **training: object) -> UUID:
    """Create a run as a submitted job has one, and return its id."""
    asked = {"name": name, "training": {"model": "a/b", "dataset": {"path": "rows"}, **training}}
    return await asyncio.to_thread(lambda: connected().create_run(name, {"job": asked}))
