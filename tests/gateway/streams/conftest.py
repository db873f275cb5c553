"""A service on a port of loopback, with the tests' Prefect behind it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import uvicorn
from fastapi import FastAPI

from gateway.metrics.store import MetricsStore
from gateway.rest.app import create_app
from gateway.rest.settings import ServiceSettings
from gateway.streams.prompt_websocket import PromptWebSocket


@dataclass
class Served:
    app: FastAPI
    port: int

    @property
    def store(self) -> MetricsStore:
        return self.app.state.metrics

    def websocket(self, job: str, query: str = "") -> str:
        return f"ws://127.0.0.1:{self.port}/ws/training/jobs/{job}{query}"

    def events(self, job: str) -> str:
        return f"http://127.0.0.1:{self.port}/api/training/jobs/{job}/events"


@pytest.fixture
async def served(prefect_api: str) -> AsyncIterator[Served]:
    async with serving() as made:
        yield made


class _Server(uvicorn.Server):
    def install_signal_handlers(self) -> None:
        """Leave the signals to pytest."""


def serving():
    from contextlib import asynccontextmanager

    @asynccontextmanager
    async def run() -> AsyncIterator[Served]:
        app = create_app(ServiceSettings())
        config = uvicorn.Config(
            app, port=0, log_config=None, ws=PromptWebSocket, timeout_graceful_shutdown=1
        )
        server = _Server(config)
        task = asyncio.create_task(server.serve())
        while not server.started:
            assert not task.done(), task.result()
            await asyncio.sleep(0.01)
        try:
            yield Served(app, server.servers[0].sockets[0].getsockname()[1])
        finally:
            server.should_exit = True
            await task

    return run()
