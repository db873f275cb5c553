"""What somebody wants of the runs that this process executes: asked of Prefect for all of them at once.

A worker may execute a thousand runs. If each asked for its own state once a second, Prefect's server
would do nothing else. So whoever asks within the same moment shares one question, which names the
runs, and is answered by those alone of which something is wanted: usually none.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from uuid import UUID
from weakref import WeakKeyDictionary

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateName,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import State, StateType

from flows.deleted import deleted_among
from flows.prefect_api import UNANSWERED, asking_once, prefect_client
from flows.shown import PAUSING

POLL_SECONDS = 1.0
GATHER_SECONDS = 0.05  # for which a question waits for others to join it
DELETED_SECONDS = 30.0  # between two looks for runs that were deleted
FEW = 10  # runs in one process, of which each tells Prefect as much as if it were alone
PAGE = 200  # what Prefect's API returns at most

DELETED = "its run was deleted in Prefect"
_DELETED: State = State(type=StateType.CANCELLED, name="Deleted", message=DELETED)

# Of a run in any other state nothing is wanted.
_STATES = FlowRunFilterState(
    operator="or_",  # type: ignore[call-arg] # a mixin of Prefect has the field
    type=FlowRunFilterStateType(any_=[StateType.PAUSED, StateType.CANCELLING, StateType.CANCELLED]),
    name=FlowRunFilterStateName(any_=[PAUSING]),
)


class _SharedQuestion:
    """One question to Prefect, for all runs that joined it before it was asked."""

    def __init__(self) -> None:
        self.runs: set[UUID] = set()
        self.answer: asyncio.Task[dict[UUID, State]] = asyncio.create_task(self._asked())

    async def _asked(self) -> dict[UUID, State]:
        await asyncio.sleep(GATHER_SECONDS)
        _open.pop(asyncio.get_running_loop(), None)
        found: dict[UUID, State] = {}
        async with prefect_client() as client:
            asked = list(self.runs)
            for start in range(0, len(asked), PAGE):
                some = FlowRunFilterId(any_=asked[start : start + PAGE])
                with asking_once():
                    runs = await client.read_flow_runs(
                        flow_run_filter=FlowRunFilter(id=some, state=_STATES), limit=PAGE
                    )
                found |= {run.id: run.state for run in runs if run.state}
            await _look_for_deleted(client, asked)
        return found | dict.fromkeys(_deleted & self.runs, _DELETED)


_open: WeakKeyDictionary[asyncio.AbstractEventLoop, _SharedQuestion] = WeakKeyDictionary()
"""The question that can still be joined."""
_may_look = 0.0
_deleted: set[UUID] = set()
"""The runs that were deleted; none comes back."""
_bells: dict[UUID, asyncio.Event] = {}
"""Of the runs whose watchers can be woken."""


async def _look_for_deleted(client: PrefectClient, runs: list[UUID]) -> None:
    """Note now and then which runs were deleted in Prefect."""
    global _may_look
    if time.monotonic() < _may_look:
        return
    _may_look = time.monotonic() + DELETED_SECONDS
    with suppress(*UNANSWERED), asking_once():
        _deleted.update(await deleted_among(client, runs))


async def wanted_of(run_id: UUID) -> State | None:
    """Return the state of a run that is to pause or to end, or has; None: it may go on.

    One that was deleted in Prefect counts as cancelled.

    Raises:
        httpx.HTTPError: Prefect does not answer; it is asked once.
    """
    loop = asyncio.get_running_loop()
    question = _open.get(loop)
    if question is None:
        question = _open[loop] = _SharedQuestion()
    question.runs.add(run_id)
    # Shielded: whoever is cancelled meanwhile must not take the answer from the others.
    return (await asyncio.shield(question.answer)).get(run_id)


@contextmanager
def bell_of(run_id: UUID) -> Iterator[None]:
    """Let `ring` wake those who watch a run, while the body executes it."""
    _bells[run_id] = asyncio.Event()
    try:
        yield
    finally:
        _bells.pop(run_id, None)


def unhurried(seconds: float, most: float) -> float:
    """Return how long to wait between two words to Prefect: longer, where many runs are executed here.

    Args:
        seconds: for a few runs.
        most: for any number.
    """
    return min(most, seconds * max(1.0, len(_bells) / FEW))


def ring(run_id: UUID) -> None:
    """Have those who watch a run look at once: something is wanted of it."""
    if bell := _bells.get(run_id):
        bell.set()
        # The next wait is for the next ring.
        _bells[run_id] = asyncio.Event()


async def until_next_look(run_id: UUID) -> None:
    """Wait until it is time to look again at what is wanted of a run, or until `ring`."""
    bell = _bells.get(run_id)
    with suppress(TimeoutError):
        async with asyncio.timeout(POLL_SECONDS):
            await (bell.wait() if bell else asyncio.sleep(POLL_SECONDS))
