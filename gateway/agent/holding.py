"""What an agent holds besides the service: its workers, and the reports to its backend."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from deployments.pools import CLOUD_POOL, LOCAL_POOL
from deployments.worker import Served, keep
from gateway.agent.links import Links
from gateway.agent.reporting import Backend, BackendReporter
from gateway.agent.settings import AgentService
from gateway.exits import say
from gateway.metrics.holding import at_work

AGAIN_SECONDS = 10.0
log = logging.getLogger(__name__)


@asynccontextmanager
async def agent_link(app: FastAPI) -> AsyncIterator[None]:
    """Keep workers, and report to `app.state.backend`, while the application is served."""
    service: AgentService = app.state.settings
    agent = service.agent
    # Trainers of other programs report to this service, unless the environment names another.
    os.environ.setdefault("TRAINING_ORCHESTRATOR_URL", f"http://127.0.0.1:{app.state.port}")
    links = Links(agent.checkpoints_dir, agent.logs_dir)
    backend = app.state.backend = Backend(agent.backend_url, has_links=links.are_wanted)
    works = [_keep_workers(agent.max_concurrent_jobs)]
    if backend.url or backend.has_links:
        works.append(BackendReporter(backend.url, app.state.prefect, links).run())
    async with at_work(*works):
        yield


async def _keep_workers(most: int) -> None:
    """Keep the workers of this computer. Runs until it is cancelled."""
    # The other pool has reconcile, and jobs that train elsewhere.
    pools = {LOCAL_POOL: Served(most), CLOUD_POOL: Served(None)}
    while True:
        try:
            await keep(pools, say)
        except Exception:
            log.exception("the workers ended")
        await asyncio.sleep(AGAIN_SECONDS)
