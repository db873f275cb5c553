"""Which runs were deleted in Prefect; what it only does not know was not."""

from __future__ import annotations

from uuid import uuid4

import pytest
from prefect import get_client
from prefect.states import Running

from flows.deleted import BY_RUNS, deleted_among
from flows.execute import create_run
from tests.flows.flow_runs import make_job
from tests.waiting import until

pytestmark = pytest.mark.usefixtures("home", "prefect_api")


async def test_a_run_was_deleted_where_prefect_remembers_it_and_only_there():
    deleted, alive = [(await create_run(make_job())).id for _ in range(2)]
    never = uuid4()  # as of a database that was reset
    async with get_client() as client:
        heartbeat = {
            "occurred": "2026-01-01T00:00:00Z",
            "event": BY_RUNS,
            "resource": {"prefect.resource.id": f"prefect.flow-run.{never}"},
            "id": str(uuid4()),
        }
        (await client.request("POST", "/events", json=[heartbeat])).raise_for_status()
        for id in (deleted, alive):
            await client.set_flow_run_state(id, Running(), force=True)
        assert await deleted_among(client, [deleted, alive]) == set()
        await client.delete_flow_run(deleted)
        every = [deleted, alive, never]
        assert await until(lambda: deleted_among(client, every)) == {deleted}
        assert await deleted_among(client, [never]) == set()
