"""How long points are kept: the files of runs stay, and so the truth."""

from __future__ import annotations

import asyncio
import logging

from gateway.metrics.store import MetricsStore

CHECK_SECONDS = 3600.0
log = logging.getLogger(__name__)


async def prune_hourly(store: MetricsStore, days: float | None) -> None:
    """Remove, every hour, the points of jobs that got none for so many days; None: keep all."""
    while days is not None:
        try:
            if gone := await store.prune(days):
                log.info("the metrics of %d jobs were removed: %g days old", len(gone), days)
        except Exception as error:  # noqa: BLE001 - the next hour will do
            log.warning("old metrics are removed later (%s: %s)", type(error).__name__, error)
        await asyncio.sleep(CHECK_SECONDS)
