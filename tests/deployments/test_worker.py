"""`trainctl worker` executes jobs, and no death around it harms them."""

from __future__ import annotations

import httpx
import psutil
import pytest

from flows.reconcile import reconcile_once
from tests.waiting import PATIENCE, until, until_now

pytestmark = [pytest.mark.xdist_group("hosting"), pytest.mark.slow]


@pytest.fixture(scope="module")
def job(site):
    """A job that trains for as long as the tests of this file need it."""
    run_id = site.submit()
    yield run_id
    site.kill(run_id)


@pytest.fixture
def second(site, job):
    """A job that waits for the first one to end."""
    run_id = site.submit()
    yield run_id
    httpx.delete(f"{site.url}/flow_runs/{run_id}").raise_for_status()


def trains_on(site, job):
    """Wait until the training has gone on from where it is now."""
    reached = site.step(job)
    return until_now(lambda: site.step(job) > reached)


def test_killing_one_worker_starts_it_again_and_harms_neither_its_job_nor_the_other(
    site, workers, job
):
    """Its folder, its home and its user are not the deployer's; files there are not imported."""
    trains_on(site, job)
    before, engine = workers.of_pools(), site.engine(job)

    before["local-gpu"].kill()
    psutil.wait_procs([before["local-gpu"]])
    after = until_now(lambda: len(now := workers.of_pools()) == 2 and now)

    assert after["local-gpu"].pid != before["local-gpu"].pid
    assert after["cloud"].pid == before["cloud"].pid
    assert engine.is_running()
    assert trains_on(site, job)
    log = workers.log.read_text()
    assert "local-gpu | the worker ended with exit code -9; it starts again in 1 s" in log
    assert f"serving {site.url}: local-gpu (1 at once), cloud (any number)" in log


async def test_a_job_whose_flow_process_is_killed_under_a_worker_goes_on(
    site, workers, job, second, monkeypatch
):
    monkeypatch.setenv("TRAINING_ORCHESTRATOR_HOME", str(site.home))
    monkeypatch.setattr("flows.verdict.ZOMBIE_SECONDS", 0.0)
    engine = until_now(lambda: site.engine(job))
    trains_on(site, job)
    running = site.state(job)["id"]

    engine.kill()
    psutil.wait_procs([engine])
    with site.as_ours():
        await until(lambda: _revived(site, job, running))
    revived = until_now(lambda: site.engine(job))

    assert revived.pid != engine.pid
    assert until_now(lambda: (s := site.state(job))["type"] == "RUNNING" and s)
    assert trains_on(site, job)
    assert site.state(second)["type"] == "SCHEDULED"  # the first one's training was here throughout


async def _revived(site, job, running):
    await reconcile_once()  # or the one that a worker executes every minute
    state = site.state(job)
    return state["id"] != running and state["type"] != "CRASHED"


def test_the_schedule_of_reconcile_fires_and_a_worker_executes_it(site, workers):
    every = site.deployment("reconcile/every-minute")
    schedule = every["schedules"][0]
    path = f"/deployments/{every['id']}/schedules/{schedule['id']}"

    def fires(timing):
        changed = {"schedule": timing, "active": True}
        httpx.patch(f"{site.url}{path}", json=changed).raise_for_status()

    fires({"interval": 5})

    only = {"deployments": {"id": {"any_": [every["id"]]}}, "limit": 5}
    done = {"flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}}}
    [run, *_] = until_now(lambda: site.ask("/flow_runs/filter", {**only, **done}))
    fires(schedule["schedule"])

    assert run["auto_scheduled"]
    assert "ok      reconcile    last ran" in site.trainctl("check").stdout


def test_killing_all_of_worker_takes_the_workers_along_and_no_job(site, workers, job):
    engine = until_now(lambda: site.engine(job))
    children = list(until_now(lambda: len(w := workers.of_pools()) == 2 and w).values())

    workers.process.kill()
    workers.process.wait()
    gone, alive = psutil.wait_procs(children, timeout=PATIENCE)

    assert (len(gone), alive) == (2, [])
    assert engine.is_running()
    assert trains_on(site, job)


def test_asking_it_to_end_ends_both_workers_and_no_job(site, workers, job):
    engine = until_now(lambda: site.engine(job))
    children = list(until_now(lambda: len(w := workers.of_pools()) == 2 and w).values())

    workers.end()
    gone, alive = psutil.wait_procs(children, timeout=PATIENCE)

    assert (len(gone), alive) == (2, [])
    assert workers.process.returncode == 0
    assert engine.is_running()
    assert trains_on(site, job)
