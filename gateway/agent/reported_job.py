"""One job of an agent, told to its backend: each kind of report in order, the last status last."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from prefect.client.schemas.objects import State

from blocks.home import runs
from flows.reporting.delivery import METRICS, Delivery, Feed, NextBatch
from flows.reporting.platform import Address
from flows.reporting.points import next_points
from flows.reporting.spool import DeliveryCursor, DeliveryFolder
from flows.shown import state_of
from gateway.agent.links import Links
from gateway.jobs import PHRASES
from gateway.operations.showing import LOG
from gateway.streams.messages import microseconds
from trainer.contract.job_directory import JobState
from trainer.contract.redaction import redacted
from trainer.contract.tail import TailReader

LOGS, STATUS = "logs", "status"
WORDS: Mapping[JobState, str] = {
    JobState.CREATED: "pending",
    JobState.INITIALIZING: "pending",
    JobState.RUNNING: "running",
    JobState.PAUSED: "paused",
    JobState.COMPLETED: "completed",
    JobState.FAILED: "failed",
    JobState.STOPPED: "cancelled",
}
"""Document 004's words for the states."""
LOOK_SECONDS = 1.0
LOG_BYTES = 1 << 16  # of a request: escaped as JSON they are less than a body may have
MOST_LINES = 1000
MOST_MESSAGE = 2000
KEPT_SECONDS = 3 * 86400.0
"""For so long a job that failed or was cancelled may be resumed, and a backend be away after its end."""


@dataclass(slots=True)
class _Telling:
    """A kind of report, what came of telling it last, and when it is told again."""

    feed: Feed
    result: Delivery = Delivery.MOVED
    due: float = 0.0

    async def tell(self, client: httpx.AsyncClient, *, at_rest: bool) -> None:
        """Tell all that there is, unless the backend is to be left alone."""
        while time.monotonic() >= self.due:
            self.result = await self.feed.deliver_next(client, at_rest=at_rest)
            if self.result is not Delivery.MOVED:
                self.due = time.monotonic() + self.feed.pause
                return


class ReportedJob:
    """What is told of one job, and how far its backend has it."""

    def __init__(
        self, root: Path, job_id: str, url: str, token: str, links: Links | None = None
    ) -> None:
        """Prepare to report.

        Args:
            root: the folder of the job's cursors.
            job_id: by which the backend knows it.
            url: the backend's; empty: nobody is told.
            token: by which it lets us report.
            links: to the files of jobs; None: none are made.
        """
        self.root, self.job_id = root, job_id
        self._url = f"{url}/api/training/local/{job_id}" if url else ""
        self._token = token
        self._links = links
        self._states: list[tuple[int, dict[str, str]]] = []
        self._told_of = self._states
        self._state = JobState.CREATED
        self._fresh = asyncio.Event()

    def heard(self, states: Sequence[State[Any]]) -> None:
        """Take all states that the job's run had, oldest first or not."""
        in_order = sorted(states, key=microseconds)
        self._states = [(microseconds(state), _told(state)) for state in in_order]
        self._state = state_of(in_order[-1]) if in_order else self._state
        self._fresh.set()

    async def report(self, run_id: UUID, client: httpx.AsyncClient) -> None:
        """Report until the job has completed and all of it is told, or three days after its end."""
        first, last = self._tellings(runs() / str(run_id))
        while True:
            self._fresh.clear()
            # The states of this look, and none that comes while metrics are told: see below.
            state, self._told_of = self._state, self._states
            if self._links:
                await asyncio.to_thread(self._links.make, self.job_id, run_id)
            for each in first:
                await each.tell(client, at_rest=state.at_rest)
            # The end comes last: a backend may take nothing more behind it.
            if not state.at_rest or all(each.result is not Delivery.LATER for each in first):
                for each in last:
                    await each.tell(client, at_rest=True)
            is_told = all(each.result is Delivery.NOTHING for each in (*first, *last))
            if state is self._state and self._is_over(is_told=is_told):
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._fresh.wait()

    def _is_over(self, *, is_told: bool) -> bool:
        if not (self._states and self._state.at_rest) or self._state is JobState.PAUSED:
            return False
        ended = self._states[-1][0] / 1e6
        if self._state is JobState.COMPLETED and is_told:
            return True
        return time.time() - ended > KEPT_SECONDS

    def _tellings(self, folder: Path) -> tuple[list[_Telling], list[_Telling]]:
        """Return what is told at any time, and what comes after it at the end."""
        if not self._url:
            return [], []

        def metrics(cursor: DeliveryCursor, *, at_rest: bool) -> tuple[Any, DeliveryCursor]:
            points, after = next_points(folder / "metrics.jsonl", cursor, at_rest=at_rest)
            return ({"job_id": self.job_id, "metrics": points} if points else None), after

        def lines(cursor: DeliveryCursor, *, at_rest: bool) -> tuple[Any, DeliveryCursor]:
            found = TailReader(folder / LOG, cursor.offset, chunk=LOG_BYTES).peek(rest=at_rest)
            found = found[:MOST_LINES]
            after = replace(cursor, offset=cursor.offset + sum(map(len, found)))
            return ({"logs": list(map(_plain, found))} if found else None), after

        first = [self._telling(METRICS, "PUT", metrics), self._telling(LOGS, "POST", lines)]
        return first, [self._telling(STATUS, "PATCH", self._next_status)]

    def _telling(self, kind: str, method: str, batch: NextBatch) -> _Telling:
        headers = {"Authorization": f"Bearer {self._token}"}
        address = Address(f"{self._url}/{kind}", headers, method)
        return _Telling(Feed(kind, address, DeliveryFolder(self.root), batch))

    def _next_status(
        self, cursor: DeliveryCursor, *, at_rest: bool
    ) -> tuple[dict[str, str] | None, DeliveryCursor]:
        """Return the next state that says something else than the one before it."""
        del at_rest
        before: dict[str, str] | None = None
        for at, told in self._told_of:
            if at > cursor.offset and told != before:
                return told, replace(cursor, offset=at)
            before = told
        return None, cursor


def _told(state: State[Any]) -> dict[str, str]:
    told = {"status": WORDS[state_of(state)]}
    if state.message and state.message not in PHRASES:
        told["message"] = redacted(state.message)[:MOST_MESSAGE]
    return told


def _plain(line: bytes) -> str:
    # Of a progress bar, its last drawing.
    text = line.decode("utf-8", "replace").rstrip("\r\n").rpartition("\r")[2]
    return redacted(text)
