"""The store on both databases."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.metrics.store import MetricsStore


@pytest.fixture
async def store(engine: AsyncEngine) -> AsyncIterator[MetricsStore]:
    made = MetricsStore(engine)
    yield made
    await made.close()
