"""Show the job's state as the name of its running flow run's state, whenever Prefect takes it.

Nothing waits for it: a training starts and goes on while Prefect is away.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import State, StateType
from prefect.states import Running

from flows.logger import logger
from flows.prefect_api import UNANSWERED, prefect_client
from flows.run_folder import this_run_id
from flows.run_state import is_cancelled, restore, set_meanwhile
from flows.shown import PAUSING, TRAINS
from flows.wanted import unhurried, wanted_of
from trainer.contract.job_directory import JobState

LAST_SECONDS = (
    2.0  # for a state that is on its way to arrive, so that it does not come after the last
)
SHOWN_SECONDS = 0.5  # that a state lasts at least to be shown, by as many runs as share a process
CROWDED_SECONDS = 5.0


class _Announcer:
    """Delivers the newest state of one run; an older one that was not delivered is passed over."""

    def __init__(self) -> None:
        self._state: JobState | None = None
        self._news = asyncio.Event()
        self.is_idle = asyncio.Event()
        self.is_idle.set()

    def tell(self, state: JobState) -> None:
        self._state = state
        if not _crowded_seconds():
            self.is_idle.clear()
        self._news.set()

    async def run(self) -> None:
        run_id = this_run_id()
        async with prefect_client() as client:
            while True:
                await self._news.wait()
                # Of many that begin at once only how they go on is shown.
                await asyncio.sleep(_crowded_seconds())
                self._news.clear()
                self.is_idle.clear()
                try:
                    if self._state:
                        await _announce(client, run_id, self._state)
                except Exception as error:  # noqa: BLE001 - a name that is not shown harms nothing
                    logger().warning("Prefect does not show the job as %s: %s", self._state, error)
                if _crowded_seconds() or not self._news.is_set():
                    self.is_idle.set()


def _crowded_seconds() -> float:
    """Return for how long a newer state may take the place of one that is to be shown."""
    return unhurried(SHOWN_SECONDS, CROWDED_SECONDS) - SHOWN_SECONDS


_announcer: ContextVar[_Announcer] = ContextVar("the announcer of this flow run")


@asynccontextmanager
async def announcing() -> AsyncIterator[None]:
    """Deliver what is announced in the body; what Prefect has not taken by its end is dropped."""
    announcer = _Announcer()
    _announcer.set(announcer)
    running = asyncio.create_task(announcer.run())
    try:
        yield
    finally:
        # The run's last state comes next, and a name must not arrive after it.
        idle = asyncio.create_task(announcer.is_idle.wait())
        await asyncio.wait({running, idle}, timeout=LAST_SECONDS, return_when="FIRST_COMPLETED")
        for task in (idle, running):
            task.cancel()
        await asyncio.wait({idle, running}, timeout=LAST_SECONDS)


def announce(state: JobState) -> None:
    """Show `state` as the name of the running flow run's state; a request to pause or stop stays."""
    _announcer.get().tell(state)


async def _announce(client: PrefectClient, run_id: UUID, state: JobState) -> None:
    name = state.capitalize()
    now = (await client.read_flow_run(run_id)).state
    # The server lets a run leave Cancelled, which would undo the cancellation.
    if pause_is_wanted(now) or is_cancelled(now):
        return
    message = TRAINS if state is JobState.RUNNING else None
    shown: State[Any] = Running(name=name, message=message)
    ours = (await client.set_flow_run_state(run_id, shown)).state
    # A request that came between our reading and our writing was overwritten: ask again.
    for asked in (await set_meanwhile(client, run_id, now, ours))[:1]:
        if pause_is_wanted(asked):
            await ask_to_pause(client, run_id, asked.message)
        elif is_cancelled(asked):
            await restore(client, run_id, asked)


async def ask_to_pause(client: PrefectClient, run_id: UUID, why: str | None = None) -> None:
    """Leave the request to pause in a run's state, where it lasts until the run has paused."""
    asked: State[Any] = Running(name=PAUSING, message=why)
    await client.set_flow_run_state(run_id, asked, force=True)


def pause_is_wanted(state: State | None) -> bool:
    """Whether somebody asks a run to pause, in Prefect's words or in ours."""
    return state is not None and (state.type is StateType.PAUSED or state.name == PAUSING)


async def pause_was_asked() -> bool:
    """Whether somebody asks the flow run that calls to pause; not while Prefect does not say."""
    try:
        return pause_is_wanted(await wanted_of(this_run_id()))
    except UNANSWERED:
        return False
