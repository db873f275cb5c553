"""A job that waits says where, and what has to happen for it to begin."""

from __future__ import annotations

import json

import pytest

pytestmark = pytest.mark.xdist_group("hosting")
NOBODY = (
    "waits in queue high (priority 1) of pool local-gpu; no worker is online: start one with "
    "'trainctl worker' on the computer with the GPU"
)


@pytest.fixture
def job(site):
    """A job in the queue high, while no worker has ever been there."""
    assert site.ask("/work_pools/local-gpu/workers/filter", {}) == []
    run_id = site.submit("--priority", "high")
    yield run_id
    site.request("DELETE", f"/flow_runs/{run_id}")


def test_whoever_submits_a_job_learns_where_it_waits_and_that_nobody_serves_it(site, job):
    said = site.trainctl("submit", str(site.folder / "job.json"), "--priority", "high")
    shown = json.loads(site.trainctl("status", job, "--json").stdout)["waiting"]

    assert said.stdout.splitlines()[-1] == NOBODY
    assert shown["text"] == NOBODY
    assert (shown["queue"], shown["priority"], shown["workers_online"]) == ("high", 1, 0)
    assert NOBODY in site.trainctl("status", job).stdout
    assert site.trainctl("monitor", job).stdout.splitlines()[0] == NOBODY
    site.request("DELETE", f"/flow_runs/{said.stdout.split()[1]}")


@pytest.mark.thorough
def test_a_paused_queue_and_a_full_pool_are_named(site, job):
    def say():
        return json.loads(site.trainctl("status", job, "--json").stdout)["waiting"]["text"]

    worker = {"name": "w", "heartbeat_interval_seconds": 30}
    site.request("POST", "/work_pools/local-gpu/workers/heartbeat", worker)
    online = say()
    site.request("PATCH", "/work_pools/local-gpu", {"concurrency_limit": 0})
    full = say()
    site.request("PATCH", "/work_pools/local-gpu", {"concurrency_limit": None, "is_paused": True})
    paused = say()
    site.request("PATCH", "/work_pools/local-gpu", {"is_paused": False})
    site.request("DELETE", "/work_pools/local-gpu/workers/w")

    assert online.endswith("a worker is online and takes it when it has room")
    assert full.endswith("0 of 0 jobs that may run there at once run now")
    assert paused.endswith(
        "the queue or its pool is paused: resume it in Prefect's UI, under Work Pools"
    )
