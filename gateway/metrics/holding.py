"""The metrics store of a service: open, and following the files, for as long as it is served."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import Depends, FastAPI
from fastapi.requests import HTTPConnection

from gateway.metrics.following import Follower
from gateway.metrics.retention import prune_hourly
from gateway.metrics.store import MetricsStore


@asynccontextmanager
async def metrics_link(app: FastAPI) -> AsyncIterator[None]:
    """Keep `app.state.metrics`, the store, and `app.state.follower`, while the application is served."""
    store = MetricsStore(app.state.database)
    days = app.state.settings.metrics_retention_days
    follower = Follower(store, retention_days=days)
    app.state.metrics, app.state.follower = store, follower
    try:
        async with at_work(follower.run(), prune_hourly(store, days)):
            yield
    finally:
        await store.close()


@asynccontextmanager
async def at_work(*works: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Do what has no end of its own beside the body, and end it with the body."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _metrics(connection: HTTPConnection) -> MetricsStore:
    store: MetricsStore = connection.app.state.metrics
    return store


Metrics = Annotated[MetricsStore, Depends(_metrics)]
"""A parameter of a route, or of a WebSocket, that is given the store."""
