"""Runs that were deleted in Prefect while they train: no command finds them, and they have their GPUs.

That Prefect does not know a run is no proof. Its database may have been reset, or be an older one that
was brought back, and by neither may a training end. But a run that was deleted leaves behind the events
by which the server itself noted its states; it keeps them for a week.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

PAGE = 200  # what Prefect's API returns at most
OF_STATES = "prefect.flow-run."
BY_RUNS = "prefect.flow-run.heartbeat"
"""The one event of these that comes from a run's process, and so may be sent to any server."""


async def deleted_among(client: PrefectClient, ids: Sequence[UUID]) -> set[UUID]:
    """Return which of these runs Prefect knew once and does not know any more.

    Raises:
        httpx.HTTPError: Prefect does not answer.
    """
    missing: set[UUID] = set()
    for start in range(0, len(ids), PAGE):
        some = list(ids[start : start + PAGE])
        only = FlowRunFilter(id=FlowRunFilterId(any_=some))
        if await client.count_flow_runs(flow_run_filter=only) == len(some):
            continue
        known = await client.read_flow_runs(flow_run_filter=only, limit=PAGE)
        missing |= set(some) - {run.id for run in known}
    return {id for id in missing if await _was_known(client, id)}


async def _was_known(client: PrefectClient, id: UUID) -> bool:
    wanted = {
        "event": {"prefix": [OF_STATES], "exclude_name": [BY_RUNS]},
        "resource": {"id": [f"prefect.flow-run.{id}"]},
    }
    answer = await client.request("POST", "/events/filter", json={"filter": wanted, "limit": 1})
    answer.raise_for_status()
    return bool(answer.json()["events"])
