"""`trainctl worker` executes jobs, and no death around it harms them."""

from __future__ import annotations

import psutil
import pytest

from tests.waiting import PATIENCE, until_now

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
    site.request("DELETE", f"/flow_runs/{run_id}")


def trains_on(site, job):
    """Wait until the training has gone on from where it is now."""
    reached = site.step(job)
    return until_now(lambda: site.step(job) > reached)


def test_killing_one_worker_starts_it_again_and_it_attaches_to_its_job(site, workers, job, second):
    """Its folder, its home and its user are not the deployer's; files there are not imported."""
    trains_on(site, job)
    before = workers.of_pools()

    before["local-gpu"].kill()
    psutil.wait_procs([before["local-gpu"]])
    after = until_now(lambda: len(now := workers.of_pools()) == 2 and now)

    assert after["local-gpu"].pid != before["local-gpu"].pid
    assert after["cloud"].pid == before["cloud"].pid
    assert until_now(lambda: "attached to the training" in workers.log.read_text())
    assert until_now(lambda: (s := site.state(job))["name"] == "Running" and s["message"])
    assert trains_on(site, job)
    # The first one's training was here throughout.
    assert until_now(lambda: (s := site.state(second))["name"] == "Queued" and s["message"])
    log = workers.log.read_text()
    assert "local-gpu | the worker ended with exit code -9; it starts again in 1 s" in log
    assert f"serving {site.url}: local-gpu (as its queue decides), cloud (as its queue" in log


def test_the_schedule_of_reconcile_fires_and_a_worker_executes_it(site, workers):
    every = site.deployment("reconcile/every-minute")
    schedule = every["schedules"][0]
    path = f"/deployments/{every['id']}/schedules/{schedule['id']}"

    def fires(timing):
        changed = {"schedule": timing, "active": True}
        site.request("PATCH", path, changed)

    fires({"interval": 5})

    only = {"deployments": {"id": {"any_": [every["id"]]}}, "limit": 5}
    done = {"flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}}}
    [run, *_] = until_now(lambda: site.ask("/flow_runs/filter", {**only, **done}))
    fires(schedule["schedule"])

    assert run["auto_scheduled"]
    assert "ok      reconcile    last ran" in site.trainctl("check").stdout


@pytest.mark.thorough
def test_killing_all_of_worker_takes_the_workers_along_and_no_job(site, workers, job):
    trains_on(site, job)
    children = list(until_now(lambda: len(w := workers.of_pools()) == 2 and w).values())

    workers.process.kill()
    workers.process.wait()
    gone, alive = psutil.wait_procs(children, timeout=PATIENCE)

    assert (len(gone), alive) == (2, [])
    assert trains_on(site, job)


@pytest.mark.thorough
def test_asking_it_to_end_ends_both_workers_and_no_job(site, workers, job):
    trains_on(site, job)
    children = list(until_now(lambda: len(w := workers.of_pools()) == 2 and w).values())
    until_now(lambda: "Worker" in workers.log.read_text())

    workers.end()
    gone, alive = psutil.wait_procs(children, timeout=PATIENCE)

    assert (len(gone), alive) == (2, [])
    assert workers.process.returncode == 0
    assert site.state(job)["type"] in {"RUNNING", "PENDING"}
    assert trains_on(site, job)
