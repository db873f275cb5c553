"""Why a job that was handed to a deployment has not begun: its queue, and who serves it.

All of it is plain JSON of Prefect's REST API; nothing here imports Prefect.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from urllib.parse import quote

from deployments.pools import LOCAL_POOL
from flows.asking import AskApi, Json
from flows.shown import QUEUED

WAITING = ("SCHEDULED", "PENDING")
AT_WORK = {"state": {"type": {"any_": ["PENDING", "RUNNING", "CANCELLING"]}}}


async def waiting_for(ask: AskApi, run: Json) -> Json | None:
    """Return where a run waits and for what, or None for one that does not wait for a worker.

    Args:
        ask: asks the API.
        run: the flow run, as the API gives it.

    Returns:
        `pool`, `queue`, `priority` (1 goes first), `workers_online`, `at_work` (runs of the pool
        that have begun), `limit` (of those, or None), `paused`, and all of it as a `text`.
    """
    pool, queue = run.get("work_pool_name"), run.get("work_queue_name")
    if not pool or not queue or (run.get("state") or {}).get("type") not in WAITING:
        return None
    path = f"/work_pools/{quote(pool)}"
    its_pool, its_queue, online, at_work = await asyncio.gather(
        ask(path, None),
        ask(f"{path}/queues/{quote(queue)}", None),
        online_workers(ask, pool),
        ask("/flow_runs/count", {"flow_runs": AT_WORK, "work_pools": {"name": {"any_": [pool]}}}),
    )
    if its_pool is None or its_queue is None:  # deleted since; no worker can serve them
        return None
    facts: Json = {
        "pool": pool,
        "queue": queue,
        "priority": its_queue["priority"],
        "workers_online": len(online),
        "at_work": at_work,
        "limit": its_pool["concurrency_limit"],
        "paused": its_pool["is_paused"] or its_queue["is_paused"],
    }
    return {**facts, "text": in_words(facts, run)}


async def online_workers(ask: AskApi, pool: str) -> list[Json]:
    """Return the workers that serve a pool now; none if there is no such pool."""
    # The workers of a pool that does not exist would be an error of HTTP.
    pools = await ask("/work_pools/filter", {"work_pools": {"name": {"any_": [pool]}}})
    if not pools:
        return []
    workers = await ask(f"/work_pools/{quote(pool)}/workers/filter", {})
    return [worker for worker in workers if worker["status"] == "ONLINE"]


def in_words(facts: Json, run: Json) -> str:
    """Return in a sentence where a run waits, and what has to happen for it to begin."""
    where = f"in queue {facts['queue']} (priority {facts['priority']}) of pool {facts['pool']}"
    return f"waits {where}; {_reason(facts, run)}"


def _reason(facts: Json, run: Json) -> str:
    starts = datetime.fromisoformat(run["expected_start_time"] or "1970-01-01T00:00:00+00:00")
    # The order is that of remedies: without a worker nothing else matters, and a time to come is
    # no fault at all.
    if facts["workers_online"] == 0:
        place = "on the computer with the GPU" if facts["pool"] == LOCAL_POOL else "on a computer"
        return f"no worker is online: start one with 'trainctl worker' {place}"
    if facts["paused"]:
        return "the queue or its pool is paused: resume it in Prefect's UI, under Work Pools"
    if run["state"]["type"] == "SCHEDULED" and starts > datetime.now(UTC):
        return f"it is scheduled for {starts.astimezone():%Y-%m-%d %H:%M:%S}"
    if facts["limit"] is not None and facts["at_work"] >= facts["limit"]:
        return f"{facts['at_work']} of {facts['limit']} jobs that may run there at once run now"
    if run["state"].get("name") == QUEUED and run["state"].get("message"):
        return str(run["state"]["message"])  # by the worker that decides for the pool
    # A run that a worker has taken, and is starting, is counted there itself.
    others = facts["at_work"] - (run["state"]["type"] == "PENDING")
    busy = f"; {others} run there now" if others > 0 else ""
    return f"a worker is online and takes it when it has room{busy}"
