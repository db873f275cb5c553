"""The gate of access, as all requests of a service share it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

from fastapi import FastAPI
from prefect.client.orchestration import PrefectClient
from prefect.exceptions import ObjectNotFound

from gateway.access.gate import Gate
from gateway.access.settings import AccessSettings
from gateway.reading_settings import read_settings


@asynccontextmanager
async def access_link(app: FastAPI) -> AsyncIterator[None]:
    """Keep `app.state.gate` while the application is served; it needs the database and Prefect.

    Raises:
        ConfigError: a setting is not one that can be.
    """

    async def is_unfinished(job_id: str) -> bool:
        client: PrefectClient = app.state.prefect
        try:
            run = await client.read_flow_run(UUID(job_id))
        except ObjectNotFound:
            return False
        return run.state is None or not run.state.is_final()

    settings = read_settings(AccessSettings)
    app.state.gate = await Gate.of(app.state.database, settings, is_unfinished)
    yield
