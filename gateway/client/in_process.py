"""The service within this process: the same operations, without a port, a key or a second process."""

from __future__ import annotations

import asyncio
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import httpx
import uvicorn
from fastapi import FastAPI

from gateway.access.callers import local_user
from gateway.rest.application import create_app
from gateway.rest.settings import service_settings

ADDRESS = "http://localhost"
END_SECONDS = 2  # that streams which are still open have


@asynccontextmanager
async def client_in_process(*, seconds: float) -> AsyncIterator[httpx.AsyncClient]:
    """Yield a client of the application, served for as long as the body runs.

    Args:
        seconds: for an answer.

    Raises:
        OrchestratorError: Prefect's API does not answer.
    """
    app = create_app(service_settings())
    app.state.only_caller = local_user()  # as with `trainctl`
    async with app.router.lifespan_context(app):
        # A socket in a folder of our own: nobody else can reach it, and streams stream, which httpx's
        # own transport for applications does not let them.
        with tempfile.TemporaryDirectory() as folder:
            path = str(Path(folder) / "s")
            async with _served(app, path):
                transport = httpx.AsyncHTTPTransport(uds=path)
                async with httpx.AsyncClient(
                    transport=transport, base_url=ADDRESS, timeout=seconds
                ) as client:
                    yield client


@asynccontextmanager
async def _served(app: FastAPI, path: str) -> AsyncIterator[None]:
    config = uvicorn.Config(
        app, lifespan="off", log_config=None, timeout_graceful_shutdown=END_SECONDS
    )
    server = _Quiet(config)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        serving = asyncio.create_task(server.serve([listening]))
        try:
            yield
        finally:
            server.should_exit = True
            await serving


class _Quiet(uvicorn.Server):
    """A server that leaves the signals to the program that it is a part of."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
