"""How long runs will still take by what their trainings measured: the time of a step, and the steps left."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from blocks.home import runs
from flows.asking import AskApi
from flows.scheduling.seen import SeenRun
from flows.shown import PROGRESS
from trainer.contract.metrics import parse_records

TAIL = 64 * 1024  # bytes; a record has a few hundred
AGAIN_SECONDS = 15.0


class Measured:
    """The seconds left of the runs of a pool."""

    def __init__(self, ask: AskApi) -> None:
        self._ask = ask
        self._known: dict[str, float] = {}
        self._again = 0.0

    async def left(self, found: Iterable[SeenRun]) -> Mapping[str, float]:
        """Return by id how long runs will still take, of those that have trained a step.

        Args:
            found: runs that have GPUs, or had some.
        """
        if time.monotonic() >= self._again:
            # Of a training on a rented machine no GPU of the pool waits to become free.
            begun = [run for run in found if run.wishes.here and run.began is not None]
            self._known = await asyncio.to_thread(_of_this_computer, begun)
            elsewhere = [run for run in begun if run.id not in self._known]
            self._known |= await self._by_progress(elsewhere)
            self._again = time.monotonic() + AGAIN_SECONDS
        return self._known

    async def _by_progress(self, found: list[SeenRun]) -> dict[str, float]:
        """Return the same of trainings on other computers, by what they show in Prefect."""
        ran = {run.id: run.ran for run in found}
        left = {}
        for start in range(0, len(found), 200):
            ids = [run.id for run in found[start : start + 200]]
            artifacts = {"key": {"any_": [PROGRESS]}, "flow_run_id": {"any_": ids}}
            body = {"artifacts": artifacts, "limit": 200}
            for artifact in await self._ask("/artifacts/filter", body):
                done, id = artifact.get("data"), artifact.get("flow_run_id")
                if isinstance(done, int | float) and 0 < done <= 100 and id in ran:
                    left[id] = ran[id] * (100 - done) / done
        return left


def _of_this_computer(found: Iterable[SeenRun]) -> dict[str, float]:
    folder = runs()
    each = {run.id: _last_eta(folder / run.id / "metrics.jsonl") for run in found}
    return {id: left for id, left in each.items() if left is not None}


def _last_eta(path: Path) -> float | None:
    """Return the time left by the last record of a metrics file that has one."""
    with suppress(OSError), path.open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        stream.seek(max(0, size - TAIL))
        records, _ = parse_records(stream.readlines())
        for record in reversed(records):
            if isinstance(left := record.get("eta_seconds"), int | float):
                return max(0.0, float(left))
    return None
