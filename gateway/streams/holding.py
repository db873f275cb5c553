"""The streams of a service, for as long as it is served."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from gateway.metrics.holding import at_work
from gateway.streams.hub import Streams
from gateway.streams.states import StateWatch


@asynccontextmanager
async def streams_link(app: FastAPI) -> AsyncIterator[None]:
    """Keep `app.state.streams` while the application is served."""
    states = StateWatch()
    streams = app.state.streams = Streams(app.state.metrics, app.state.follower, states)
    async with at_work(states.run(), streams.run()):
        yield
