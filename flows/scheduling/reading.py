"""Reads what waits, runs and ran in a pool from Prefect, in pages, and only what may have changed.

A page of 200 runs takes Prefect's server a third of a second, so a long queue is read once. After that
its news are: runs that became due lately, runs that waited before and do again, and runs that ended.
Where the number of those that wait is another than Prefect's, something else happened, such as a run
that was deleted, and all is read again.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable

from flows.asking import AskApi, Json
from flows.scheduling.labels import moment
from flows.scheduling.seen import SeenRun, seen

PAGE = 200  # the most that one answer holds: PREFECT_SERVER_API_DEFAULT_LIMIT, 200 by default
OVERLAP = 30.0  # seconds: what was written while we read is read the next time
AGAIN_SECONDS = 30.0  # the least between two readings of all of a long queue
REST = 4.0  # the least pause between two such readings, as a multiple of the time that one took
ACTIVE = ("PENDING", "RUNNING", "CANCELLING")
OVER = ("COMPLETED", "FAILED", "CANCELLED", "CRASHED")


class Reader:
    """The runs of one pool."""

    def __init__(self, ask: AskApi, pool: str, clock: Callable[[], float] = time.time) -> None:
        self._ask = ask
        self._pool = pool
        self._clock = clock
        self._waiting: dict[str, SeenRun] = {}
        self._read_until: float | None = None
        self._may_read_all = 0.0
        self._ended: dict[str, SeenRun] = {}
        self._ended_from = self._ended_until = 0.0

    async def waiting(self) -> dict[str, SeenRun]:
        """Return the runs that are due and wait, by id."""
        now = self._clock()
        if self._read_until is None or len(self._waiting) < PAGE:
            return await self._read_all(now)
        news = {"next_scheduled_start_time": _between(self._read_until - OVERLAP, now)}
        again = {
            "next_scheduled_start_time": _between(None, now),
            "start_time": {"is_null_": False},
        }
        for which in (news, again):
            async for run in self._runs(("SCHEDULED",), which):
                self._waiting[run.id] = run
        self._read_until = now
        due = {"state": _of_types("SCHEDULED"), "next_scheduled_start_time": _between(None, now)}
        count = await self._ask("/flow_runs/count", self._body(due))
        if count != len(self._waiting) and time.monotonic() >= self._may_read_all:
            return await self._read_all(now)
        return self._waiting

    def forget(self, id: str) -> None:
        """Take a run off those that wait: it was started, or has ended."""
        self._waiting.pop(id, None)

    async def active(self) -> dict[str, SeenRun]:
        """Return the runs that somebody executes, by id."""
        found = {run.id: run async for run in self._runs(ACTIVE, {}, sort="ID_DESC")}
        for id in found:
            self.forget(id)
        return found

    async def ended(self, since: float) -> list[SeenRun]:
        """Return the runs that ended after a moment, as far as they ever began."""
        now = self._clock()
        # Kept from one time to the next; the horizon moves forward by itself.
        start = self._ended_until - OVERLAP if since >= self._ended_from > 0 else since
        lately = {"end_time": _between(start, None)}
        async for run in self._runs(OVER, lately, sort="END_TIME_DESC"):
            self.forget(run.id)
            if run.ran > 0:
                self._ended[run.id] = run
        self._ended = {k: run for k, run in self._ended.items() if (run.ended or now) >= since}
        self._ended_from, self._ended_until = since, now
        return list(self._ended.values())

    async def _read_all(self, now: float) -> dict[str, SeenRun]:
        began = time.monotonic()
        due = {"next_scheduled_start_time": _between(None, now)}
        self._waiting = {run.id: run async for run in self._runs(("SCHEDULED",), due)}
        self._read_until = now
        took = time.monotonic() - began
        self._may_read_all = began + max(AGAIN_SECONDS, (1 + REST) * took)
        return self._waiting

    async def _runs(
        self, types: tuple[str, ...], of: Json, *, sort: str = "NEXT_SCHEDULED_START_TIME_ASC"
    ) -> AsyncIterator[SeenRun]:
        """Yield the runs of some states, page by page."""
        offset = 0
        while True:
            body = self._body({"state": _of_types(*types), **of})
            page = await self._ask(
                "/flow_runs/filter", {**body, "sort": sort, "limit": PAGE, "offset": offset}
            )
            for value in page:
                yield seen(value)
            if len(page) < PAGE:
                return
            offset += PAGE

    def _body(self, runs: Json) -> Json:
        return {"flow_runs": runs, "work_pools": {"name": {"any_": [self._pool]}}}


def _of_types(*types: str) -> Json:
    return {"type": {"any_": list(types)}}


def _between(start: float | None, end: float | None) -> Json:
    found = {"after_": start, "before_": end}
    return {name: moment(at) for name, at in found.items() if at is not None}
