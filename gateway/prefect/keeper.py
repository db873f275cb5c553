"""When reconcile last ran, on any computer: without it, whatever died stays as it is."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any

from deployments.pools import CLOUD_POOL
from flows.asking import AskApi
from flows.reconcile import reconciled_at
from gateway.prefect import attendant
from gateway.prefect.waiting import online_workers

FLOW = "reconcile"
LATE_SECONDS = 300.0  # it runs every minute
MISSED = 3  # runs that a slower schedule may miss before reconcile counts as late
PROMISES = "nothing ends machines that are left over, or revives jobs whose process died"
ATTENDED = ", except for what 'trainctl run' started on this computer"
# So young, a deployment or a worker may not have had its first run yet.
DEPLOYED_SECONDS = 120.0
STARTED_SECONDS = 60.0


async def last_reconcile(ask: AskApi) -> dict[str, Any]:
    """Return when reconcile last ran to its end, whether that is too long ago, and what to do.

    Returns:
        `ok`, `text`, and `seconds_ago`, which is None where it never ran.
    """
    flow = {"flows": {"name": {"any_": [FLOW]}}}
    done = {"flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}}}
    runs = await ask("/flow_runs/filter", {**flow, **done, "sort": "END_TIME_DESC", "limit": 10})
    deployments = await ask("/deployments/filter", {**flow, "limit": 10})
    # A dry run puts nothing right.
    real = [run for run in runs if not run["parameters"].get("dry_run")]
    # `trainctl reconcile` leaves no run at Prefect, only its note on this computer; a deployment
    # leaves runs, perhaps of another computer.
    last = max([reconciled_at(), *(_seconds(run["end_time"]) for run in real)])
    ago = time.time() - last if last else None
    if ago is not None and ago < _allowed(deployments):
        return {"ok": True, "text": f"last ran {_since(ago)} ago", "seconds_ago": ago}
    if not deployments and (why := attendant.why_no_schedule()):
        return {"ok": True, "text": why, "seconds_ago": ago}
    if ago is None and (due := await _first_is_due(ask, deployments)):
        return {"ok": True, "text": due, "seconds_ago": None}
    what = "has never run" if ago is None else f"has not run for {_since(ago)}"
    text = f"{what}: {PROMISES}{ATTENDED * attendant.is_on()}. {await _remedy(ask, deployments)}"
    return {"ok": False, "text": text, "seconds_ago": ago}


def _allowed(deployments: list[dict[str, Any]]) -> float:
    intervals = [
        float(schedule["schedule"]["interval"])
        for deployment in deployments
        for schedule in deployment["schedules"]
        if schedule["active"] and "interval" in schedule["schedule"]
    ]
    # The shortest of several schedules is the one that keeps reconcile on time.
    return max(LATE_SECONDS, MISSED * min(intervals, default=0.0))


async def _first_is_due(ask: AskApi, deployments: list[dict[str, Any]]) -> str | None:
    """Return in words that the first run is still to come, or None if it should have been."""
    on = [deployment for deployment in deployments if _is_on(deployment)]
    workers = await _workers(ask, on)
    if not any(_age(deployment) < DEPLOYED_SECONDS for deployment in on) and not any(
        _age(worker) < STARTED_SECONDS for worker in workers
    ):
        return None
    start = "" if workers else ": 'trainctl worker'"
    return f"has not run yet; its first run is due within a minute of a worker's start{start}"


async def _workers(ask: AskApi, deployments: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the workers that serve the pools of deployments now."""
    return [worker for pool in _pools(deployments) for worker in await online_workers(ask, pool)]


def _pools(deployments: list[dict[str, Any]]) -> set[str]:
    return {deployment["work_pool_name"] or CLOUD_POOL for deployment in deployments}


async def _remedy(ask: AskApi, deployments: list[dict[str, Any]]) -> str:
    if not deployments:
        return (
            "Deploy it: 'trainctl deploy', then 'trainctl worker'. "
            "Or call 'trainctl reconcile' now and then."
        )
    if not any(_is_on(deployment) for deployment in deployments):
        return f"Its schedule is off: switch it on, at {FLOW}/{deployments[0]['name']} in Prefect."
    if not await _workers(ask, deployments):
        pools = ", ".join(_pools(deployments))
        return f"Start a worker: 'trainctl worker'. None is online in the pool {pools}."
    return "A worker is online; look for the cause in its log and in the Prefect server's."


def _is_on(deployment: dict[str, Any]) -> bool:
    return not deployment["paused"] and any(one["active"] for one in deployment["schedules"])


def _age(made: dict[str, Any]) -> float:
    """Return the seconds since Prefect made something."""
    return time.time() - _seconds(made["created"])


def _seconds(text: str | None) -> float:
    return datetime.fromisoformat(text).timestamp() if text else 0.0


def _since(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 100 else f"{minutes / 60:.0f} h"
