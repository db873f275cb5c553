"""Delete reconcile's uneventful runs: at 1,440 a day they would bury the jobs in Prefect's UI."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, cast

import httpx
from prefect.client.orchestration import PrefectClient
from prefect.exceptions import PrefectHTTPStatusError

from flows.logger import logger

ALL_WELL = "All well"
"""The name of the state of a run that found nothing to put right."""
SHOWN = timedelta(minutes=5)  # how long they stay, so that one can see that reconcile runs
AT_ONCE = 50  # the most runs that Prefect deletes in one call: BULK_OPERATION_LIMIT of its API
MOST_CALLS = 40  # enough for the 1,440 runs of a day without a worker


async def forget_uneventful(client: PrefectClient, deployment_id: str) -> None:
    """Delete the runs of a deployment, some minutes old, that say nothing of interest.

    Those found all well, or were due while no worker was there or while another one was under way.
    Runs that put something right, or failed, stay.
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
    # The client has no method for this route, and types the paths that it knows.
    path = cast("Any", "/flow_runs/bulk_delete")
    for _ in range(MOST_CALLS):
        answer = await client.request("POST", path, json={"flow_runs": flow_runs})
        if len(answer.json()["deleted"]) < AT_ONCE:
            return
