"""What runs have cost on rented machines, by the table of machines that each has in Prefect."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from flows.asking import AskApi, Json
from flows.scheduling.labels import seconds
from flows.scheduling.pool import HOUR
from flows.scheduling.seen import SeenRun
from flows.shown import IN_USE, MACHINES

AGAIN_SECONDS = 15.0
AT_ONCE = 200


class Spending:
    """The cost of the runs of a pool."""

    def __init__(self, ask: AskApi, clock: Callable[[], float] = time.time) -> None:
        self._ask = ask
        self._clock = clock
        self._known: dict[str, float] = {}
        self._final: set[str] = set()
        self._again = 0.0

    async def usd(self, found: Iterable[SeenRun]) -> Mapping[str, float]:
        """Return by id what runs have cost so far; those that had no machine for money are left out.

        Args:
            found: the runs of projects with a quota in USD.
        """
        # What has ended costs nothing any more, and is read once.
        open_ones = [run for run in found if run.is_job and run.id not in self._final]
        is_new = any(run.ended is not None for run in open_ones)
        if not open_ones or not (is_new or time.monotonic() >= self._again):
            return self._known
        for start in range(0, len(open_ones), AT_ONCE):
            await self._read([run.id for run in open_ones[start : start + AT_ONCE]])
        self._final |= {run.id for run in open_ones if run.ended is not None}
        self._again = time.monotonic() + AGAIN_SECONDS
        return self._known

    async def _read(self, ids: list[str]) -> None:
        artifacts = {"key": {"any_": [MACHINES]}, "flow_run_id": {"any_": ids}}
        body = {"artifacts": artifacts, "sort": "CREATED_DESC", "limit": AT_ONCE}
        for artifact in await self._ask("/artifacts/filter", body):
            updated = seconds(artifact.get("updated"))
            passed = 0.0 if updated is None else max(0.0, self._clock() - updated)
            self._known[str(artifact.get("flow_run_id"))] = sum(
                _cost(row, passed) for row in _rows(artifact.get("data"))
            )


def _rows(data: Any) -> list[Json]:
    """Return the rows of a table, which Prefect returns as values or as text."""
    try:
        rows = json.loads(data) if isinstance(data, str) else data
    except ValueError:
        return []
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def _cost(row: Json, passed: float) -> float:
    """Return what a machine has cost, so many seconds after its row was written."""
    since = _number(row.get("USD/h")) * passed / HOUR if row.get("outcome") == IN_USE else 0.0
    return _number(row.get("USD")) + since


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
