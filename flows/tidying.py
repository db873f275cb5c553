"""Keep reconcile's own runs out of sight: it runs 1,440 times a day, and would bury the jobs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, cast

import httpx
from prefect.client.orchestration import PrefectClient
from prefect.exceptions import PrefectHTTPStatusError

from flows.logger import logger

ALL_WELL = "All well"
"""The name of the state of a run that found nothing to put right."""
SHOWN = timedelta(minutes=5)
AT_ONCE = 50  # runs that Prefect deletes in one call
MOST_CALLS = 40  # after a day without a worker


async def forget_uneventful(client: PrefectClient, deployment_id: str) -> None:
    """Delete the runs of a deployment, some minutes old, that say nothing to anybody.

    These found all well, were due when no worker was there, or when another was under way. What
    put something right, or failed, stays.
    """
    before = {"before_": (datetime.now(UTC) - SHOWN).isoformat()}
    uneventful: list[dict[str, Any]] = [
        {"state": {"name": {"any_": [ALL_WELL]}}, "end_time": before},
        {"state": {"type": {"any_": ["SCHEDULED"]}}, "expected_start_time": before},
        {"state": {"type": {"any_": ["CANCELLED"]}}, "expected_start_time": before},
    ]
    try:
        for kind in uneventful:
            await _delete(client, {"deployment_id": {"any_": [deployment_id]}, **kind})
    except (httpx.HTTPError, PrefectHTTPStatusError) as error:
        logger().warning("old runs of reconcile cannot be deleted: %s", error)


async def _delete(client: PrefectClient, flow_runs: dict[str, Any]) -> None:
    path = cast("Any", "/flow_runs/bulk_delete")
    for _ in range(MOST_CALLS):
        answer = await client.request("POST", path, json={"flow_runs": flow_runs})
        if len(answer.json()["deleted"]) < AT_ONCE:
            return
