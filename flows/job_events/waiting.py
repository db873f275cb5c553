"""The events of runs that no flow works on: submitted, queued, or at their end before they began."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterEndTime,
    FlowRunFilterNextScheduledStartTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.client.schemas.sorting import FlowRunSort

from flows.full_disk import save_anyway
from flows.job_events.kinds import Happening, event_of, facts_of
from flows.job_events.noting import at_work_at_last, past, submitted_at
from flows.job_events.sending import send
from flows.job_events.spool import EventSpool, Noted
from flows.logger import logger
from flows.owner import owner_elsewhere
from flows.prefect_api import UNANSWERED, asking_once, prefect_client
from flows.shown import FLOW, REVIVING
from flows.wanted import unhurried
from trainer.contract.files import read_json

PAGE = 200
LOOK_SECONDS = 10.0
CROWDED_SECONDS = 30.0  # the same where many runs are executed in one process
OVERLAP = timedelta(minutes=2)  # of two looks: clocks differ, and a row may be written late
AT_ONCE = timedelta(seconds=5)  # a run that is due for longer waits for its turn
ENDS = {StateType.CANCELLED: Happening.STOPPED, StateType.FAILED: Happening.FAILED}

Found = tuple[FlowRun, Happening, int, datetime | None]
"""What happened to a run, how often it had come to rest before, and when."""


async def tell_waiting(client: PrefectClient) -> None:
    """Note and send what happened since the last look."""
    spool = EventSpool.of_waiting()
    file = spool.file.with_name("looked.json")
    began = datetime.now(UTC)
    noted = (read_json(file) or {}).get("at")
    since = datetime.fromisoformat(noted) if noted else began
    found: list[Found] = []
    async for run in _runs(client, _waiting(since - OVERLAP, began)):
        found += await _wait_of(client, run, began)
    async for run in _runs(client, _ended(since - OVERLAP)):
        found += await _end_of(client, run)
    _note(spool, found)
    save_anyway(file, {"at": began.isoformat()})
    await send(spool, hurry=True)


async def keep_telling() -> None:
    """Tell what waits again and again, beside a worker. Runs until it is cancelled."""
    while True:
        try:
            async with prefect_client() as client:
                with asking_once():
                    await tell_waiting(client)
        except UNANSWERED as error:
            logger().debug("waiting jobs are told of later: %s", error)
        except Exception as error:  # noqa: BLE001 - the worker's runs go on
            logger().warning("waiting jobs are told of later: %s", error)
        await asyncio.sleep(unhurried(LOOK_SECONDS, CROWDED_SECONDS))


async def _wait_of(client: PrefectClient, run: FlowRun, now: datetime) -> list[Found]:
    """Return what is to be said of a run that is due."""
    if run.state is None or run.state.name == REVIVING:  # its training goes on
        return []
    found: list[Found] = [(run, Happening.SUBMITTED, 0, submitted_at(run))]
    if now - (run.next_scheduled_start_time or now) >= AT_ONCE:
        rests = past(await client.read_flow_run_states(run.id))[0] if run.run_count else 0
        found.append((run, Happening.QUEUED, rests, now))
    return found


async def _end_of(client: PrefectClient, run: FlowRun) -> list[Found]:
    """Return the end of a run that came while no flow worked on it; of others the flow notes it."""
    assert run.state is not None  # noqa: S101 - it was found by its state
    # One that began is looked at by the computer that worked on it last.
    if owner_elsewhere(run):
        return []
    states: Sequence[State] = await client.read_flow_run_states(run.id) if run.run_count else []
    if at_work_at_last(states):
        return []
    what = ENDS[run.state.type]
    at = run.state.timestamp
    return [
        (run, Happening.SUBMITTED, 0, submitted_at(run)),
        (run, what, past(states)[0], at),
    ]


def _note(spool: EventSpool, found: list[tuple[FlowRun, Happening, int, datetime | None]]) -> None:
    def change(noted: Noted) -> None:
        for run, what, rests, at in found:
            reason = (run.state.message if run.state else None) or ""
            facts = facts_of(run)
            when = at or datetime.now(UTC)
            noted.add(event_of(facts, what, rests=rests, at=when, reason=reason))

    if found:
        spool.change(change)


def _waiting(since: datetime, until: datetime) -> FlowRunFilter:
    return FlowRunFilter(
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED])),
        next_scheduled_start_time=FlowRunFilterNextScheduledStartTime(after_=since, before_=until),
    )


def _ended(since: datetime) -> FlowRunFilter:
    return FlowRunFilter(
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(ENDS))),
        end_time=FlowRunFilterEndTime(after_=since),
    )


async def _runs(client: PrefectClient, wanted: FlowRunFilter) -> AsyncIterator[FlowRun]:
    offset = 0
    while True:
        page = await client.read_flow_runs(
            flow_filter=FlowFilter(name=FlowFilterName(any_=[FLOW])),
            flow_run_filter=wanted,
            sort=FlowRunSort.ID_DESC,
            limit=PAGE,
            offset=offset,
        )
        for run in page:
            yield run
        if len(page) < PAGE:
            return
        offset += PAGE
