"""How many jobs there are in each state, and who waits for how long, as Prefect knows it."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from flows.asking import AskApi
from flows.scheduling.seen import seen
from flows.shown import FLOW, INITIALIZING, STATE_OF_TYPE
from trainer.contract.job_directory import JobState

PAGE = 200
MOST_PAGES = (
    25  # of runs that wait; where there are more, their number is right and the rest is not
)
OURS: dict[str, Any] = {"flows": {"name": {"any_": [FLOW]}}}


@dataclass(frozen=True, slots=True)
class Queues:
    """Jobs at one moment."""

    jobs: dict[JobState, int] = field(default_factory=dict)
    waiting: dict[str, int] = field(default_factory=dict)
    """How many wait for their turn, by pool."""
    longest: dict[str, float] = field(default_factory=dict)
    """For how many seconds the one has waited that has waited longest, by pool."""


async def read_queues(ask: AskApi) -> Queues:
    """Return the jobs by state and pool.

    Raises:
        httpx.HTTPError: Prefect does not answer, or refuses.
    """
    jobs: Counter[JobState] = Counter(dict.fromkeys(JobState, 0))
    for kind, state in STATE_OF_TYPE.items():
        jobs[state] += await _count(ask, {"type": {"any_": [kind]}})
    starting = await _count(ask, {"type": {"any_": ["RUNNING"]}, "name": {"any_": [INITIALIZING]}})
    jobs[JobState.RUNNING] -= starting
    jobs[JobState.INITIALIZING] += starting
    waiting: Counter[str] = Counter()
    longest: dict[str, float] = {}
    now = time.time()
    for page in range(MOST_PAGES):
        rows = await ask("/flow_runs/filter", _waiting(page * PAGE))
        for row in rows:
            since = now - seen(row).submitted
            pool = str(row.get("work_pool_name") or "")
            if since >= 0:  # of a schedule, its time has come
                waiting[pool] += 1
                longest[pool] = max(longest.get(pool, 0.0), since)
        if len(rows) < PAGE:
            break
    return Queues(dict(jobs), dict(waiting), longest)


async def _count(ask: AskApi, state: dict[str, Any]) -> int:
    return int(await ask("/flow_runs/count", {**OURS, "flow_runs": {"state": state}}))


def _waiting(offset: int) -> dict[str, Any]:
    state = {"state": {"type": {"any_": ["SCHEDULED"]}}}
    paging = {"limit": PAGE, "offset": offset, "sort": "EXPECTED_START_TIME_ASC"}
    return {**OURS, "flow_runs": state, **paging}
