"""The gateway's database, as all requests of a service share it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI
from fastapi.requests import HTTPConnection
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.database.engine import make_engine
from gateway.database.upgrading import upgrade


@asynccontextmanager
async def database_link(app: FastAPI) -> AsyncIterator[None]:
    """Keep `app.state.database`, an engine of the newest revision, while the application is served.

    Raises:
        ConfigError: its address is none, or a newer version of ours has written it.
        DatabaseUnreachable: it does not answer, refuses us, or is damaged.
    """
    engine = make_engine()
    try:
        await upgrade(engine)
        app.state.database = engine
        yield
    finally:
        await engine.dispose()


def _database(connection: HTTPConnection) -> AsyncEngine:
    engine: AsyncEngine = connection.app.state.database
    return engine


Database = Annotated[AsyncEngine, Depends(_database)]
"""A parameter of a route, or of a WebSocket, that is given the engine."""
