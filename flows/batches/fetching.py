"""The runs of batches by Prefect's own client."""

from __future__ import annotations

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterTags
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import FlowRunSort

from flows.batches.members import tag_of

PAGE = 200  # the most that one answer holds


async def runs_of(client: PrefectClient, batch: str) -> list[FlowRun]:
    """Return the runs of a batch, the first submitted first."""
    found: dict[str, FlowRun] = {}
    offset = 0
    while True:
        page = await client.read_flow_runs(
            flow_run_filter=FlowRunFilter(tags=FlowRunFilterTags(all_=[tag_of(batch)])),
            sort=FlowRunSort.ID_DESC,
            limit=PAGE,
            offset=offset,
        )
        found |= {str(run.id): run for run in page}
        if len(page) < PAGE:
            break
        offset += PAGE
    return sorted(found.values(), key=lambda run: (run.created is None, run.created, str(run.id)))
