"""The states of all runs that anybody watches, asked of Prefect in one request for all of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any
from uuid import UUID

import httpx
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import State

from flows.prefect_api import UNANSWERED, asking_once, prefect_client

POLL_SECONDS = 1.0
AWAY_SECONDS = (1.0, 2.0, 5.0, 10.0, 30.0)
"""Between two requests while Prefect does not answer."""
PAGE = 200
HeardStates = Callable[[Sequence[State[Any]]], None]
log = logging.getLogger(__name__)


class StateWatch:
    """Asks for the states of runs, and passes on those that are new."""

    def __init__(self) -> None:
        self._watched: dict[UUID, HeardStates] = {}
        self._gone: dict[UUID, Callable[[], None]] = {}
        self._known: dict[UUID, UUID] = {}
        """The newest state of each run."""
        self._wake = asyncio.Event()
        self._failures = 0
        self.requests = 0

    def watch(
        self, run_id: UUID, heard: HeardStates, gone: Callable[[], None] | None = None
    ) -> None:
        """Pass on the states of a run: those that it had, and every one from now on.

        Args:
            run_id: of the run.
            heard: called with its states.
            gone: called once Prefect knows it no more.
        """
        self._watched[run_id] = heard
        if gone is not None:
            self._gone[run_id] = gone
        self._wake.set()

    def unwatch(self, run_id: UUID) -> None:
        """Forget a run."""
        self._watched.pop(run_id, None)
        self._known.pop(run_id, None)
        self._gone.pop(run_id, None)

    async def run(self) -> None:
        """Ask again and again. Runs until it is cancelled."""
        async with prefect_client() as client:
            while True:
                await self._asked()
                try:
                    with asking_once():
                        await self._look(client)
                    self._failures = 0
                except UNANSWERED as error:
                    if not self._failures:
                        log.warning("Prefect does not answer (%s)", type(error).__name__)
                    self._failures += 1
                except Exception:
                    log.exception("the states of jobs could not be read")
                    self._failures += 1

    async def _asked(self) -> None:
        """Wait until it is time to ask: at once for a run that is new, unless Prefect is away."""
        if self._failures:
            await asyncio.sleep(AWAY_SECONDS[min(self._failures, len(AWAY_SECONDS)) - 1])
        else:
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL_SECONDS if self._watched else None):
                    await self._wake.wait()
        self._wake.clear()

    async def _look(self, client: PrefectClient) -> None:
        ids = list(self._watched)
        for at in range(0, len(ids), PAGE):
            wanted = FlowRunFilter(id=FlowRunFilterId(any_=ids[at : at + PAGE]))
            self.requests += 1
            there = await client.read_flow_runs(flow_run_filter=wanted, limit=PAGE)
            for id in set(ids[at : at + PAGE]) - {run.id for run in there}:
                # Only what was there: a run that is being created may not be in the list yet.
                if id in self._known and (gone := self._gone.pop(id, None)):
                    gone()
            for run in there:
                if run.state is not None and self._known.get(run.id) != run.state.id:
                    # Between two looks there may have been several.
                    await self._pass_on(client, run.id, run.state.id)

    async def _pass_on(self, client: PrefectClient, run_id: UUID, newest: UUID) -> None:
        try:
            states = await client.read_flow_run_states(run_id)
        except httpx.HTTPStatusError:
            return  # deleted just now
        if heard := self._watched.get(run_id):
            self._known[run_id] = newest
            heard(states)
