"""Reads what waits, runs and ran in a pool from Prefect, in pages, and only what may have changed.

A page of 200 runs takes Prefect's server a third of a second, so a long queue is read once. After that
its news are: runs that became due lately, runs that ended, and every few seconds runs that have run before.
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
FEW = 20  # runs that wait, which are all read anew each time
OVERLAP = 30.0  # seconds: what was written while we read is read the next time
LOOK_SECONDS = 5.0  # between two looks for what is no news by its time
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
        self._may_look = self._may_read_all = self._may_read_active = 0.0
        self._active: dict[str, SeenRun] = {}
        self._ended: dict[str, SeenRun] = {}
        self._ended_from = self._ended_until = 0.0

    async def waiting(self) -> dict[str, SeenRun]:
        """Return the runs that are due and wait, by id."""
        now, may_look = self._clock(), time.monotonic() >= self._may_look
        is_short = len(self._waiting) < (PAGE if may_look else FEW)
        if may_look:
            self._may_look = time.monotonic() + LOOK_SECONDS
        if self._read_until is None or is_short:
            return await self._read_all(now)
        news = {"next_scheduled_start_time": _between(self._read_until - OVERLAP, now)}
        async for run in self._runs(("SCHEDULED",), news):
            self._take(run)
        return await self._look(now) if may_look else self._waiting

    async def _look(self, now: float) -> dict[str, SeenRun]:
        """Find what is no news by its time: what waits again, and what has left no trace."""
        due = {"next_scheduled_start_time": _between(None, now)}
        async for run in self._runs(("SCHEDULED",), due | {"start_time": {"is_null_": False}}):
            self._take(run)
        counted = self._body({"state": _of_types("SCHEDULED"), **due})
        count = await self._ask("/flow_runs/count", counted)
        if count != len(self._waiting) and time.monotonic() >= self._may_read_all:
            return await self._read_all(now)
        return self._waiting

    def _take(self, run: SeenRun) -> None:
        self._waiting[run.id] = run
        # By the runs' own times: our clock may differ from that of the server.
        self._read_until = max(self._read_until or 0.0, min(run.submitted, self._clock()))

    def forget(self, id: str) -> None:
        """Take a run off those that wait: it was started, or has ended."""
        self._waiting.pop(id, None)

    async def active(self) -> dict[str, SeenRun]:
        """Return the runs that somebody executes, by id."""
        began = time.monotonic()
        if began >= self._may_read_active:
            found = {run.id: run async for run in self._runs(ACTIVE, {}, sort="ID_DESC")}
            took = time.monotonic() - began
            # A thousand of them take the server a second; whoever executes them knows of their ends.
            self._active, self._may_read_active = found, began + (1 + REST) * took
        for id in self._active:
            self.forget(id)
        return self._active

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
        found = [run async for run in self._due(now)]
        self._waiting, self._read_until = {}, 0.0
        for run in found:
            self._take(run)
        took = time.monotonic() - began
        self._may_read_all = began + max(AGAIN_SECONDS, (1 + REST) * took)
        return self._waiting

    async def _due(self, now: float) -> AsyncIterator[SeenRun]:
        """Yield the runs that are due and wait, in the order of their times."""
        # Each page goes on from the time where the one before ended: to count past thousands of runs
        # would take the server five times as long.
        start, offset, known = None, 0, set[str]()
        while True:
            between = _between(None, now) | ({"after_": start} if start else {})
            page = await self._page(
                ("SCHEDULED",),
                {"next_scheduled_start_time": between},
                sort="NEXT_SCHEDULED_START_TIME_ASC",
                offset=offset,
            )
            for value in page:
                if value["id"] not in known:
                    yield seen(value)
            known = {value["id"] for value in page}
            if len(page) < PAGE:
                return
            last = page[-1]["next_scheduled_start_time"]
            start, offset = (start, offset + PAGE) if last == start else (last, 0)

    async def _runs(
        self, types: tuple[str, ...], of: Json, *, sort: str = "NEXT_SCHEDULED_START_TIME_ASC"
    ) -> AsyncIterator[SeenRun]:
        """Yield the runs of some states, page by page."""
        offset = 0
        while True:
            page = await self._page(types, of, sort=sort, offset=offset)
            for value in page:
                yield seen(value)
            if len(page) < PAGE:
                return
            offset += PAGE

    async def _page(
        self, types: tuple[str, ...], of: Json, *, sort: str, offset: int
    ) -> list[Json]:
        body = self._body({"state": _of_types(*types), **of})
        page: list[Json] = await self._ask(
            "/flow_runs/filter", {**body, "sort": sort, "limit": PAGE, "offset": offset}
        )
        return page

    def _body(self, runs: Json) -> Json:
        return {"flow_runs": runs, "work_pools": {"name": {"any_": [self._pool]}}}


def _of_types(*types: str) -> Json:
    return {"type": {"any_": list(types)}}


def _between(start: float | None, end: float | None) -> Json:
    found = {"after_": start, "before_": end}
    return {name: moment(at) for name, at in found.items() if at is not None}
