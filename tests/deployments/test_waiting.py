"""A job that waits says where, and what has to happen for it to begin."""

from __future__ import annotations

import json

import httpx
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
    httpx.delete(f"{site.url}/flow_runs/{run_id}").raise_for_status()


def test_whoever_submits_a_job_learns_where_it_waits_and_that_nobody_serves_it(site, job):
    said = site.trainctl("submit", str(site.folder / "job.json"), "--priority", "high")
    shown = json.loads(site.trainctl("status", job, "--json").stdout)["waiting"]

    assert said.stdout.splitlines()[-1] == NOBODY
    assert shown["text"] == NOBODY
    assert (shown["queue"], shown["priority"], shown["workers_online"]) == ("high", 1, 0)
    assert NOBODY in site.trainctl("status", job).stdout
    assert site.trainctl("monitor", job).stdout.splitlines()[0] == NOBODY
    httpx.delete(f"{site.url}/flow_runs/{said.stdout.split()[1]}").raise_for_status()


@pytest.mark.thorough
def test_a_paused_queue_and_a_full_pool_are_named(site, job):
    def say():
        return json.loads(site.trainctl("status", job, "--json").stdout)["waiting"]["text"]

    worker = {"name": "w", "heartbeat_interval_seconds": 30}
    httpx.post(f"{site.url}/work_pools/local-gpu/workers/heartbeat", json=worker).raise_for_status()
    online = say()
    httpx.patch(f"{site.url}/work_pools/local-gpu", json={"concurrency_limit": 0})
    full = say()
    httpx.patch(
        f"{site.url}/work_pools/local-gpu", json={"concurrency_limit": None, "is_paused": True}
    )
    paused = say()
    httpx.patch(f"{site.url}/work_pools/local-gpu", json={"is_paused": False})
    httpx.delete(f"{site.url}/work_pools/local-gpu/workers/w").raise_for_status()

    assert online.endswith("a worker is online and takes it when it has room")
    assert full.endswith("0 of 0 jobs that may run there at once run now")
    assert paused.endswith(
        "the queue or its pool is paused: resume it in Prefect's UI, under Work Pools"
    )
