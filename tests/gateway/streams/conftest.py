"""A service on a port of loopback, with the tests' Prefect behind it, or none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from gateway.metrics.holding import metrics_link
from gateway.metrics.store import MetricsStore
from gateway.rest.access_link import access_link
from gateway.rest.application import create_app
from gateway.rest.database_link import database_link
from gateway.rest.settings import ServiceSettings
from gateway.streams.hub import Streams
from gateway.streams.prompt_websocket import PromptWebSocket
from gateway.streams.routes import router
from gateway.streams.states import StateWatch


@dataclass
class Served:
    app: FastAPI
    port: int
    server: uvicorn.Server

    @property
    def connections(self) -> int:
        return len(self.server.server_state.connections)

    @property
    def store(self) -> MetricsStore:
        return self.app.state.metrics

    @property
    def streams(self) -> Streams:
        return self.app.state.streams

    def websocket(self, job: str, query: str = "") -> str:
        return f"ws://127.0.0.1:{self.port}/ws/training/jobs/{job}{query}"

    def events(self, job: str) -> str:
        return f"http://127.0.0.1:{self.port}/api/training/jobs/{job}/events"


@pytest.fixture
async def served(prefect_api: str) -> AsyncIterator[Served]:
    async with serving(create_app(ServiceSettings())) as made:
        yield made


@pytest.fixture
async def alone() -> AsyncIterator[Served]:
    """Yield the streams by themselves: of jobs that Prefect does not know."""
    app = FastAPI(lifespan=_without_prefect)
    app.state.settings = ServiceSettings()
    app.include_router(router)
    async with serving(app) as made:
        yield made


@asynccontextmanager
async def _without_prefect(app: FastAPI) -> AsyncIterator[None]:
    app.state.prefect = _Away()
    async with database_link(app), access_link(app), metrics_link(app):
        app.state.streams = Streams(app.state.metrics, app.state.follower, StateWatch())
        yield


class _Away:
    """A Prefect that does not answer."""

    async def request(self, *words: object, **more: object) -> None:
        raise httpx.ConnectError("away")


class _Server(uvicorn.Server):
    def install_signal_handlers(self) -> None:
        """Leave the signals to pytest."""


@asynccontextmanager
async def serving(app: FastAPI) -> AsyncIterator[Served]:
    config = uvicorn.Config(
        app, port=0, log_config=None, ws=PromptWebSocket, timeout_graceful_shutdown=1
    )
    server = _Server(config)
    task = asyncio.create_task(server.serve())
    while not server.started:
        assert not task.done(), task.result()
        await asyncio.sleep(0.01)
    try:
        yield Served(app, server.servers[0].sockets[0].getsockname()[1], server)
    finally:
        server.should_exit = True
        await task
