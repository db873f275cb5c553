"""What becomes of runs that a worker of this computer had taken, and that no process works on now.

Whoever decides for a pool on this computer is alone, so such a run can only be left from a worker that
ended. It is executed again at once, and attaches to its training.
"""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Collection
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateType,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.settings import PREFECT_API_URL
from prefect.states import Crashed

from blocks.home import home, runs
from blocks.marks import installation_id
from flows.attended import is_worked_on
from flows.owner import OWNER, owner_elsewhere
from flows.run_state import force_state
from flows.scheduling.labels import FOR, text

PAGE = 200
AT_WORK = [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]


def lock_of(pool: str) -> Path:
    """Return the lock that the worker holds which decides for a pool on this computer."""
    # By the server too: two of them may have pools of one name.
    whose = hashlib.sha256(f"{PREFECT_API_URL.value()} {pool}".encode()).hexdigest()
    return home() / f"worker-{whose[:16]}.lock"


def taken_here() -> str:
    """Return the message of the state of a run that a worker of this computer has taken."""
    return f"taken by the worker of {socket.gethostname()} ({installation_id()})"


async def of_pool(
    client: PrefectClient, pool: str, types: Collection[StateType], but: Collection[UUID]
) -> list[FlowRun]:
    """Return the runs of a pool in states of some types, except those that are named."""
    only = FlowRunFilter(
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(types))),
        id=FlowRunFilterId(not_any_=list(but)) if but else None,
    )
    named = WorkPoolFilter(name=WorkPoolFilterName(any_=[pool]))
    found: list[FlowRun] = []
    while True:
        page = await client.read_flow_runs(
            flow_run_filter=only, work_pool_filter=named, limit=PAGE, offset=len(found)
        )
        found += page
        if len(page) < PAGE:
            return found


async def left_at_work(client: PrefectClient, pool: str, mine: Collection[UUID]) -> list[FlowRun]:
    """Return the runs of a pool that were at work on this computer, and no process works on.

    Args:
        client: Prefect's.
        pool: its name.
        mine: the runs that this process executes, or is about to.
    """
    found = await of_pool(client, pool, AT_WORK, mine)
    return [
        run
        for run in found
        if not is_worked_on(runs() / str(run.id)) and await _was_here(client, run)
    ]


async def left_paused(client: PrefectClient, pool: str) -> list[FlowRun]:
    """Return the runs of a pool that rest and were asked to pause for another job at some time."""
    found = await of_pool(client, pool, [StateType.PAUSED], ())
    return [run for run in found if text(run.labels, FOR)]


async def _was_here(client: PrefectClient, run: FlowRun) -> bool:
    state = run.state
    if state is None:
        return False
    if state.message == taken_here():
        return True
    if state.is_pending() and str(state.message).startswith("taken by"):
        return False  # by the worker of another computer
    if OWNER in run.labels:
        return not owner_elsewhere(run)
    # It died after it had begun and before it noted who works on it.
    states = await client.read_flow_run_states(run.id)
    return any(one.message == taken_here() for one in states)


async def give_up(client: PrefectClient, run: FlowRun) -> None:
    """Show that the process of a run is gone, which nothing else would do for it."""
    gone: State[Any] = Crashed(message="its worker ended")
    await force_state(client, run, gone)
