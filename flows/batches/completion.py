"""The event of a batch all of whose jobs are at their end: once, and once more when jobs were retried."""

from __future__ import annotations

import asyncio
import functools
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterEndTime, FlowRunFilterTags
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import FlowRunSort

from flows.batches.fetching import PAGE, runs_of
from flows.batches.members import JOB, TAG, is_skipped, member
from flows.full_disk import save_anyway
from flows.job_events.kinds import PREFIX, RESTS, event_name, plain
from flows.job_events.sending import send
from flows.job_events.spool import EventSpool, Noted
from flows.notifying.of_batches import tell_of_batch
from flows.scheduling.labels import BATCH, PROJECT, USER, text
from flows.shown import job_state
from trainer.contract.files import read_json

NAME = f"{PREFIX}batch.completed"
OVERLAP = timedelta(minutes=2)  # of two looks: clocks differ, and a row may be written late
SETTLED = timedelta(
    seconds=10
)  # by then the events of the last job are stored, which are summed up
EVENTS = 50  # the most that one answer holds


async def tell_completed(client: PrefectClient) -> None:
    """Note and send an event for every batch whose last job came to its end since the last look."""
    spool = EventSpool.of_waiting()
    file = spool.file.with_name("batches.json")
    now = datetime.now(UTC)
    looked = (read_json(file) or {}).get("at")
    since = datetime.fromisoformat(looked) if looked else now
    until = now
    for batch in await _touched(client, since - OVERLAP):
        runs = await runs_of(client, batch)
        if not all(member(run, run.labels).has_ended for run in runs):
            continue
        ended = max((run.end_time for run in runs if run.end_time), default=now)
        if ended > now - SETTLED:
            until = since  # the next look looks at it once more
        else:
            event = await _event(client, batch, runs, ended)
            spool.change(functools.partial(Noted.add, event=event))
            await asyncio.to_thread(tell_of_batch, runs, event)
    save_anyway(file, {"at": until.isoformat()})
    await send(spool, hurry=True)


async def _touched(client: PrefectClient, since: datetime) -> list[str]:
    """Return the batches of which a job ended after a moment."""
    found: set[str] = set()
    offset = 0
    while True:
        page = await client.read_flow_runs(
            flow_run_filter=FlowRunFilter(
                tags=FlowRunFilterTags(all_=[TAG]), end_time=FlowRunFilterEndTime(after_=since)
            ),
            sort=FlowRunSort.ID_DESC,
            limit=PAGE,
            offset=offset,
        )
        found |= {text(run.labels, BATCH) for run in page}
        if len(page) < PAGE:
            return sorted(found - {""})
        offset += PAGE


async def _event(
    client: PrefectClient, batch: str, runs: Sequence[FlowRun], at: datetime
) -> dict[str, Any]:
    # Which jobs, and how often each ran: a batch that is retried is completed anew, another look is not.
    ends = sorted(f"{run.id} {run.run_count} {job_state(run)}" for run in runs)
    counts = Counter("skipped" if is_skipped(run) else str(job_state(run)) for run in runs)
    whose = {
        "user": text(runs[0].labels, USER),
        "project": text(runs[0].labels, PROJECT),
    }
    resource = f"{PREFIX}batch.{batch}"
    used = await _used(client, resource)
    return {
        "id": str(uuid5(NAMESPACE_URL, f"{NAME} {batch} {ends}")),
        "event": NAME,
        "occurred": at.isoformat(),
        "resource": {
            "prefect.resource.id": resource,
            "prefect.resource.name": batch,
            **{f"{PREFIX}{name}": value for name, value in whose.items() if value},
        },
        "related": [],
        "payload": plain(
            {
                "batch": batch,
                **whose,
                "jobs": {text(run.labels, JOB) or run.name: str(run.id) for run in runs},
                **{name: counts[name] for name in ("completed", "failed", "stopped", "skipped")},
                "gpu_seconds": sum(one.get("gpu_seconds") or 0.0 for one in used.values()),
                "cost_usd": sum(one.get("cost_usd") or 0.0 for one in used.values()),
            }
        ),
    }


async def _used(client: PrefectClient, resource: str) -> dict[str, dict[str, Any]]:
    """Return what the jobs of a batch say in the last event by which each came to rest, by job."""
    found: dict[str, dict[str, Any]] = {}
    wanted = {
        "event": {"name": [event_name(what) for what in sorted(RESTS)]},
        "related": {"id": [resource]},
        "order": "ASC",
    }
    answer = await client.request(
        "POST", "/events/filter", json={"filter": wanted, "limit": EVENTS}
    )
    while True:
        page = answer.json()
        for event in page["events"]:
            found[event["resource"]["prefect.resource.id"]] = event["payload"]
        # The token alone: the address may be one by which only Prefect itself is reached.
        token = (page.get("next_page") or "").partition("page-token=")[2]
        if not token:
            return found
        answer = await client.request("GET", "/events/filter/next", params={"page-token": token})
