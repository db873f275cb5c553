"""Find jobs by the ids that their clients chose, or by those of their runs.

A chosen id is kept in the idempotency key of the run, of which Prefect has one for each flow: so it
survives every restart, and two who choose the same id at the same moment get the same run. A job that
was created and not yet submitted is a run without a deployment, which no worker takes (a draft); its
submission is another run, for only then is it known which workers are to have it.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from pydantic import TypeAdapter

from flows.asking import asking
from flows.shown import FLOW, job_state
from gateway.access.callers import Caller
from gateway.jobs import provider_of
from gateway.prefect.client import PAGE, JobRun
from trainer.contract.errors import ConfigError
from trainer.contract.job_directory import JobState

_PLACE = TypeAdapter(tuple[str, list[str]])
DRAFT, SUBMITTED = "draft:", "job:"
NEWEST = "EXPECTED_START_TIME_DESC"
TYPES: Mapping[JobState, list[str]] = {
    JobState.CREATED: ["SCHEDULED", "PENDING"],
    JobState.INITIALIZING: ["RUNNING"],
    JobState.RUNNING: ["RUNNING", "CANCELLING", "SCHEDULED"],
    JobState.PAUSED: ["PAUSED"],
    JobState.COMPLETED: ["COMPLETED"],
    JobState.FAILED: ["FAILED", "CRASHED"],
    JobState.STOPPED: ["CANCELLED"],
}
"""Prefect's types of state among which jobs of a state are."""


class NoSuchJob(ConfigError):
    """There is no job of this id, or none that the caller may see."""


@dataclass(frozen=True, slots=True)
class JobPage:
    """Some jobs of a list."""

    runs: list[JobRun]
    total: int
    """How many there are in the whole list."""
    cursor: str | None = None
    """With which the next page is asked for; None: there is none."""


@dataclass(slots=True)
class _PageEnd:
    """Where a page ended: the time of its last run, and all runs of that time which were given."""

    time: str
    given: list[str] = field(default_factory=list)


def job_id_of(run: JobRun) -> str:
    """Return the id by which clients know a job: the one that was chosen, or its run's."""
    key = str(run.value.get("idempotency_key") or "")
    for prefix in (DRAFT, SUBMITTED):
        if key.startswith(prefix):
            return key.removeprefix(prefix)
    return str(run.id)


def is_draft(run: JobRun) -> bool:
    """Whether a job was created and not yet submitted."""
    return str(run.value.get("idempotency_key") or "").startswith(DRAFT)


async def find_job(client: PrefectClient, caller: Caller, job_id: str) -> JobRun:
    """Return the run of a job.

    Raises:
        NoSuchJob: there is none that the caller may see.
    """
    run = await known_job(client, job_id)
    if run is None or not caller.sees(run.labels):
        raise NoSuchJob(f"There is no job {job_id!r}.", "List them: GET /api/training/jobs")
    return run


async def known_job(client: PrefectClient, job_id: str) -> JobRun | None:
    """Return the run of a job, whoever may see it; None: there is none."""
    keys = [f"{SUBMITTED}{job_id}", f"{DRAFT}{job_id}"]
    found = await runs_of(client, limit=2, idempotency_key={"any_": keys})
    if found:
        return min(found, key=is_draft)  # what is submitted counts
    try:
        id = UUID(job_id)
    except ValueError:
        return None
    found = await runs_of(client, limit=1, id={"any_": [str(id)]})
    return found[0] if found else None


async def runs_of(client: PrefectClient, *, limit: int, offset: int = 0, **of: Any) -> list[JobRun]:
    """Return runs of the training flow, the newest first.

    Args:
        client: of Prefect.
        limit: how many at most, up to 200.
        offset: how many to pass over.
        of: filters of runs, as Prefect's API takes them.
    """
    body = {
        "flows": {"name": {"any_": [FLOW]}},
        "flow_runs": of or None,
        "sort": NEWEST,
        "limit": limit,
        "offset": offset,
    }
    return [JobRun.of(value) for value in await asking(client)("/flow_runs/filter", body)]


async def list_jobs(
    client: PrefectClient,
    caller: Caller,
    *,
    state: JobState | None = None,
    provider: str | None = None,
    limit: int = 50,
    cursor: str | None = None,
) -> JobPage:
    """Return the newest jobs that a caller may see.

    Args:
        client: of Prefect.
        caller: who asks.
        state: only jobs in this state.
        provider: only jobs that ask for this provider.
        limit: how many at most.
        cursor: of the page before; None: from the newest on.

    Raises:
        ConfigError: the cursor is none of ours.
    """
    place = _place(cursor)
    of: dict[str, Any] = {"state": {"type": {"any_": TYPES[state]}}} if state else {}

    def wanted(run: JobRun) -> bool:
        return (
            caller.sees(run.labels)
            and state in {None, job_state(run)}
            and provider in {None, *provider_of(run).split(",")}
        )

    counted = state in {None, JobState.PAUSED, JobState.COMPLETED, JobState.STOPPED}
    simple = counted and provider is None and caller.project is None
    total = await _count(client, of) if simple else 0
    found: list[JobRun] = []
    more = False
    offset = 0
    while True:
        until = {"expected_start_time": {"before_": place.time}} if simple and place else {}
        page = await runs_of(client, limit=PAGE, offset=offset, **of, **until)
        offset += len(page)
        for run in filter(wanted, page):
            total += not simple
            if place and _comes_before(run, place):
                continue
            more = more or len(found) == limit
            if len(found) < limit:
                found.append(run)
        # What Prefect cannot count for us is counted to its end.
        if len(page) < PAGE or (simple and more):
            break
    return JobPage(found, total, _cursor(found, place) if more and found else None)


async def _count(client: PrefectClient, of: dict[str, Any]) -> int:
    body = {"flows": {"name": {"any_": [FLOW]}}, "flow_runs": of or None}
    return int(await asking(client)("/flow_runs/count", body))


def _time(run: JobRun) -> str:
    return str(run.value.get("expected_start_time") or "")


def _comes_before(run: JobRun, place: _PageEnd) -> bool:
    """Whether a run was given by an earlier page, or would have been."""
    return _time(run) > place.time or (_time(run) == place.time and str(run.id) in place.given)


def _cursor(found: list[JobRun], before: _PageEnd | None) -> str:
    last = _PageEnd(_time(found[-1]))
    last.given = [str(run.id) for run in found if _time(run) == last.time]
    if before and before.time == last.time:
        last.given += before.given
    text = json.dumps([last.time, last.given])
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _place(cursor: str | None) -> _PageEnd | None:
    if cursor is None:
        return None
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        time, given = _PLACE.validate_json(base64.urlsafe_b64decode(padded))
    except (ValueError, binascii.Error):
        raise ConfigError(
            f"cursor = {cursor[:80]!r}: this list has given no such cursor.",
            "Take the one of the page before, or leave it out.",
        ) from None
    return _PageEnd(time, given)
