"""`GET /metrics`, as Prometheus scrapes it."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import replace

import httpx
from fastapi import APIRouter, FastAPI, Request
from prefect.client.orchestration import PrefectClient
from prefect.exceptions import ObjectNotFound
from prometheus_client import exposition
from starlette.responses import Response

from flows.asking import asking
from gateway.observation.figures import Figures, FiguresCollector, new_registry
from gateway.observation.queues import Queues, read_queues
from gateway.observation.usage import UsageOfAll
from gateway.rest.guards import Reader
from gateway.rest.problems import responses

AGAIN_SECONDS = 15.0  # between two times that Prefect and the runs' folders are asked
PREFECT_SECONDS = 5.0  # Prometheus gives up after ten
router = APIRouter(tags=["observation"])


class ServiceFigures:
    """Gathers the figures of a service when they are scraped."""

    def __init__(self, app: FastAPI) -> None:
        self._state = app.state
        self._usage = UsageOfAll()
        self._lock = asyncio.Lock()
        self._again = 0.0
        self._slow = Figures()
        self.collector = FiguresCollector()
        self.registry = new_registry(self.collector)

    async def gather(self) -> None:
        """Bring the collector up to date."""
        async with self._lock:
            if time.monotonic() >= self._again:
                await self._gather_slow()
                self._again = time.monotonic() + AGAIN_SECONDS
        streams = self._state.streams
        self.collector.figures = replace(
            self._slow,
            stream_clients=streams.clients,
            stream_jobs=streams.jobs,
            stream_dropped=streams.dropped,
            stream_cut_off=streams.cut_off,
            points=self._state.metrics.points_taken,
        )

    async def _gather_slow(self) -> None:
        gpu_seconds, usd = await asyncio.to_thread(self._usage.total)
        queues = await _queues(self._state.prefect)
        # What Prefect does not tell now is left out: old numbers would look like new ones.
        self._slow = Figures(
            prefect_up=queues is not None,
            queues=queues or Queues(),
            gpu_seconds=gpu_seconds,
            usd=usd,
        )


@router.get("/metrics", response_class=Response, responses=responses(401, 403))
async def scrape(request: Request, caller: Reader) -> Response:
    """Return the figures of this service in Prometheus' format."""
    del caller
    state = request.app.state
    if not hasattr(state, "observation"):
        state.observation = ServiceFigures(request.app)
    await state.observation.gather()
    encode, kind = exposition.choose_encoder(request.headers.get("accept", ""))
    return Response(encode(state.observation.registry), media_type=kind)


async def _queues(prefect: PrefectClient) -> Queues | None:
    with suppress(httpx.HTTPError, ObjectNotFound, TimeoutError):
        async with asyncio.timeout(PREFECT_SECONDS):
            return await read_queues(asking(prefect))
    return None
