"""What `trainctl deploy` makes, and what it leaves to the administrator."""

from __future__ import annotations

import pytest

from tests.gateway.commanding import call_here

pytestmark = pytest.mark.xdist_group("hosting")


@pytest.fixture
def deploy(site, monkeypatch, capfd):
    """Return a function that deploys as `trainctl` does, in this process."""
    monkeypatch.setenv("PREFECT_API_URL", site.url)

    def run():
        with site.as_ours():
            return call_here(capfd, "deploy")

    return run


def test_nothing_of_the_deployers_computer_is_in_a_deployment(site):
    deployments = site.ask("/deployments/filter", {})

    assert {d["name"] for d in deployments} == {
        "quick",
        "local",
        "cloud",
        "every-minute",
        "nightly",
    }
    for deployment in deployments:
        assert not deployment["pull_steps"]
        assert deployment["path"] is None
        assert deployment["entrypoint"] in {"flows.train.train", "flows.reconcile.reconcile"}
        assert "/" not in str(deployment["parameters"])


def test_a_pool_is_not_limited_by_the_gpus_of_the_deployers_computer(site):
    assert {p["name"]: p["concurrency_limit"] for p in site.ask("/work_pools/filter", {})} == {
        "local-gpu": None,
        "cloud": None,
    }


def test_queues_have_their_priorities(site):
    queues = site.ask("/work_pools/local-gpu/queues/filter", {})

    assert {q["name"]: q["priority"] for q in queues} == {"high": 1, "default": 2, "low": 3}


def test_deploying_again_changes_what_is_ours_and_keeps_what_an_administrator_set(site, deploy):
    local, nightly = site.deployment("train/local"), site.deployment("train/nightly")
    schedule = nightly["schedules"][0]
    theirs = {
        "parameters": {
            "job": {"name": "mine", "training": {"model": "m", "dataset": {"path": "d"}}}
        },
        "tags": ["theirs"],
        "job_variables": {"stream_output": False, "working_dir": "/srv"},
        "work_pool_name": "cloud",
        "work_queue_name": "low",
        "paused": True,
    }
    site.request("PATCH", f"/deployments/{nightly['id']}", theirs)
    cron = {"schedule": {"cron": "0 5 * * 1", "timezone": "Europe/Berlin"}, "active": True}
    site.request("PATCH", f"/deployments/{nightly['id']}/schedules/{schedule['id']}", cron)
    site.request("PATCH", "/work_pools/local-gpu", {"concurrency_limit": 3})
    queue = site.ask("/work_pools/local-gpu/queues/low")
    site.request("PATCH", "/work_pools/local-gpu/queues/low", {"priority": 7})
    baked = {"prefect.deployments.steps.set_working_directory": {"directory": "/home/gone"}}
    site.request(
        "PATCH", f"/deployments/{local['id']}", {"pull_steps": [baked], "description": "old"}
    )
    try:
        done = deploy()
        again = site.deployment("train/nightly")

        assert done.returncode == 0, done.stderr
        assert {name: again[name] for name in theirs} == theirs
        assert again["schedules"][0]["schedule"]["cron"] == "0 5 * * 1"
        assert again["schedules"][0]["active"]
        assert site.ask("/work_pools/local-gpu")["concurrency_limit"] == 3
        assert site.ask("/work_pools/local-gpu/queues/low")["priority"] == 7
        assert site.deployment("train/local")["description"] == local["description"]
        assert not site.deployment("train/local")["pull_steps"]
        assert "kept     work pool local-gpu: limit 3" in done.stdout
        assert "kept     queue local-gpu/low: priority 7" in done.stdout
        assert "updated  train/local: description, pull_steps; kept" in done.stdout
        assert "kept     train/nightly: unchanged; kept paused, queue cloud/low" in done.stdout
        assert "train/local: description, pull_steps; kept queue" in done.stdout
        assert "schedule 0 5 * * 1 (on)" in done.stdout
    finally:
        site.request("PATCH", "/work_pools/local-gpu", {"concurrency_limit": None})
        site.request("PATCH", "/work_pools/local-gpu/queues/low", {"priority": queue["priority"]})
        site.request("DELETE", f"/deployments/{nightly['id']}")


def test_the_fields_of_a_form_are_in_order_on_a_database_that_reorders_keys(site):
    schema = site.deployment("train/quick")["parameter_openapi_schema"]
    fields = schema["definitions"]["TrainingConfig"]["properties"]

    assert list(fields) != sorted(fields, key=lambda name: fields[name]["position"])  # PostgreSQL
    assert sorted(fields, key=lambda name: fields[name]["position"]) == [
        "method",
        "model",
        "dataset",
        "num_train_epochs",
        "learning_rate",
    ]
    for name in ("train/local", "train/cloud"):
        definitions = site.deployment(name)["parameter_openapi_schema"]["definitions"]
        for definition in definitions.values():
            fields = definition.get("properties", {})  # a choice of words has none
            positions = [field["position"] for field in fields.values()]
            assert sorted(positions) == list(range(len(positions)))


def test_parameters_that_no_longer_fit_are_named_and_the_rest_is_deployed(site, deploy):
    deploy()
    nightly, local = site.deployment("train/nightly"), site.deployment("train/local")
    of_old = {
        "parameter_openapi_schema": {"type": "object", "properties": {}},
        "parameters": {"job": {"name": "old", "colour": "red"}},
    }
    site.request("PATCH", f"/deployments/{nightly['id']}", of_old)
    site.request("PATCH", f"/deployments/{local['id']}", {"description": "old"})

    done = deploy()
    site.request("DELETE", f"/deployments/{nightly['id']}")

    assert done.returncode == 2
    assert "train/nightly is as it was: " in done.stderr
    assert "Traceback" not in done.stderr
    assert "updated  train/local: description" in done.stdout


@pytest.mark.thorough
def test_a_worker_of_a_pool_that_is_not_there_says_how_to_make_it(site):
    done = site.trainctl("worker", "--pool", "gpus")

    assert done.returncode == 2
    assert done.stderr == (
        f"error: The Prefect server at {site.url} has no work pool 'gpus'. "
        "Make the pools and deployments: trainctl deploy\n"
    )
