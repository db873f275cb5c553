"""A batch is submitted once, however often it is tried, and changed as one."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from flows.batches.members import member
from flows.scheduling.dependencies import WantedEnd
from flows.shown import job_state
from gateway.batches import changing
from gateway.batches.checking import checked_plan
from gateway.batches.finding import runs_of
from gateway.batches.submission import submit
from gateway.cli.completion import batch_names
from gateway.prefect.client import LightClient, connected
from tests.flows.batches.in_prefect import batch_file, deployed, plan_of
from tests.gateway.commanding import Trainctl
from trainer.contract.errors import ConfigError, OrchestratorError
from trainer.contract.job_directory import JobState

CHAIN: dict[str, Any] = {
    "cpt": {},
    "sft": {"training": {"model": "${cpt.output}"}, "retries": 2},
    "clean": {"after": {"sft": "failed"}},
}


@pytest.fixture
def deployment(prefect_api: str) -> str:
    return asyncio.run(deployed())


def states(client: LightClient, batch: str) -> dict[str, JobState]:
    return {run.name: job_state(run) for run in runs_of(client, batch)}


def test_a_batch_is_labels_and_is_submitted_once(deployment: str, tmp_path: Path):
    client = connected()
    plan = plan_of(tmp_path, deployment, CHAIN, max_concurrent=2, on_failure="stop")

    first, again = submit(client, plan), submit(client, plan)

    assert (first.new, again.new, first.runs) == (3, 0, again.runs)
    runs = {run.name: run for run in runs_of(client, plan.name)}
    assert {run.state.name for run in runs.values() if run.state} == {"Queued"}
    sft = member(runs["sft"], runs["sft"].labels)
    assert (sft.after, sft.stops) == ({"cpt": WantedEnd.OK}, True)
    assert runs["clean"].labels["training-orchestrator.batch-limit"] == 2
    assert runs["sft"].value["idempotency_key"] == f"{plan.name}/sft"
    assert runs["sft"].parameters["job"]["training"]["model"] == "${cpt.output}"


def test_another_batch_of_the_name_is_refused_and_a_longer_one_goes_on(
    deployment: str, tmp_path: Path
):
    client = connected()
    plan = plan_of(tmp_path, deployment, CHAIN)
    submit(client, plan)
    shorter = {name: job for name, job in CHAIN.items() if name != "clean"}
    for jobs, message in (
        ({**CHAIN, "cpt": {"priority": 7}}, "its job cpt with other settings"),
        (shorter, "its job clean and is not in this file"),
    ):
        with pytest.raises(ConfigError, match=message) as caught:
            submit(client, plan_of(tmp_path, deployment, jobs, name=plan.name))
        assert f"--name {plan.name}-2" in caught.value.suggestion

    longer = plan_of(tmp_path, deployment, {**CHAIN, "more": {}}, name=plan.name)
    assert submit(client, longer).new == 1
    assert len(runs_of(client, plan.name)) == 4


class Unlucky(LightClient):
    """Sees entries of the API's answers as failed, some of which were made all the same."""

    def __init__(self, client: LightClient, *, forever: bool = False) -> None:
        self.__dict__.update(client.__dict__)
        self.calls: list[list[str]] = []
        """The keys that were asked for, call by call."""
        self.answered: set[str] = set()
        self._forever = forever

    def runs_of_deployment(self, deployment: UUID, runs: list[dict[str, Any]]) -> list[Any]:
        keys = [run["idempotency_key"] for run in runs]
        assert self.answered.isdisjoint(keys)
        self.calls.append(keys)
        made = runs if len(self.calls) > 1 else runs[:-1]  # as when the database is locked
        results = super().runs_of_deployment(deployment, made)
        if len(self.calls) == 1 or self._forever:
            locked = {"status": "FAILED", "flow_run_id": None, "error": "(OperationalError) locked"}
            results[1:] = [locked] * (len(results) - 1)  # and the last has no entry at all
        # A busy server's own database is locked, too.
        entries = zip(keys, results, strict=False)
        self.answered |= {key for key, result in entries if result["status"] == "CREATED"}
        return results


def test_entries_that_failed_are_repeated_under_their_keys(deployment: str, tmp_path: Path):
    client = Unlucky(connected())
    plan = plan_of(tmp_path, deployment, CHAIN)

    done = submit(client, plan, pause=0.1)

    keys = [f"{plan.name}/{name}" for name in CHAIN]
    assert client.calls[0] == keys
    assert client.calls[1][-2:] == keys[-2:]
    assert client.answered == set(keys)
    assert len(runs_of(client, plan.name)) == 3 == len(set(done.runs.values()))


@pytest.mark.thorough
def test_a_batch_that_cannot_be_completed_says_which_jobs_lack(deployment: str, tmp_path: Path):
    client = Unlucky(connected(), forever=True)
    plan = plan_of(tmp_path, deployment, {f"j{n}": {} for n in range(9)})

    with pytest.raises(OrchestratorError) as caught:
        submit(client, plan, pause=0.001)

    assert "jobs of batch" in caught.value.message
    assert "(OperationalError) locked" in caught.value.message
    assert submit(connected(), plan).new >= 0
    assert len(runs_of(connected(), plan.name)) == 9


def test_a_pool_whose_worker_knows_no_order_is_refused(prefect_api: str, tmp_path: Path):
    deployment = asyncio.run(deployed("process"))

    with pytest.raises(ConfigError, match=r"has after, and work pool .* is of type process"):
        submit(connected(), plan_of(tmp_path, deployment, CHAIN))
    assert submit(connected(), plan_of(tmp_path, deployment, {"a": {}, "b": {}})).new == 2
    with pytest.raises(ConfigError, match="Prefect has no deployment 'train/none'"):
        submit(connected(), plan_of(tmp_path, "train/none", CHAIN))


def test_a_batch_that_waits_is_paused_resumed_cancelled_and_retried(
    deployment: str, tmp_path: Path
):
    client = connected()
    batch = plan_of(tmp_path, deployment, CHAIN)
    runs = submit(client, batch).runs
    everything = dict.fromkeys(CHAIN, JobState.CREATED)

    assert changing.pause(client, batch.name).at_once == 3
    assert set(states(client, batch.name).values()) == {JobState.PAUSED}
    with pytest.raises(ConfigError, match="nothing to pause"):
        changing.pause(client, batch.name)
    assert changing.resume(client, batch.name) == 3
    places = [run.value["next_scheduled_start_time"] for run in runs_of(client, batch.name)]
    assert places == [run.value["created"] for run in runs_of(client, batch.name)]
    assert states(client, batch.name) == everything
    with pytest.raises(ConfigError, match=r"Nothing of batch .* is paused"):
        changing.resume(client, batch.name)

    client.set_state(runs["cpt"], "FAILED", force=True, message="OutOfMemory: too much. Lower it.")
    client.set_state(runs["sft"], "CANCELLED", force=True, name="Skipped", message="comes after it")
    assert changing.cancel(client, batch.name).at_once == 1
    assert states(client, batch.name) == {
        "cpt": JobState.FAILED,
        "sft": JobState.STOPPED,
        "clean": JobState.STOPPED,
    }
    with pytest.raises(ConfigError, match=r"Every job of batch .* has ended"):
        changing.cancel(client, batch.name)

    assert changing.retry(client, batch.name, failed_only=True) == 2  # not the one a person stopped
    assert states(client, batch.name) == everything | {"clean": JobState.STOPPED}
    with pytest.raises(ConfigError, match=r"No job of batch .* failed\."):
        changing.retry(client, batch.name, failed_only=True)
    assert changing.retry(client, batch.name, failed_only=False) == 1
    assert states(client, batch.name) == everything


@pytest.mark.thorough
def test_what_runs_is_asked_and_a_crashed_one_is_not_over(deployment: str, tmp_path: Path):
    client = connected()
    batch = plan_of(tmp_path, deployment, {"a": {}, "b": {}, "c": {}})
    runs = submit(client, batch).runs
    client.set_state(runs["a"], "RUNNING", force=True, message="the training is followed")
    client.set_state(runs["b"], "CRASHED", force=True)

    assert changing.pause(client, batch.name) == changing.Changed(at_once=1, asked=1)
    paused = client.read_flow_run(runs["a"]).state
    assert paused is not None
    assert paused.name == "Pausing"
    assert changing.cancel(client, batch.name) == changing.Changed(at_once=1, asked=2)
    cancelling = {client.read_flow_run(runs[name]).state.type for name in "ab"}  # type: ignore[union-attr]
    assert cancelling == {"CANCELLING"}


def test_the_commands_list_show_and_draw_a_batch(
    deployment: str, trainctl: Trainctl, tmp_path: Path
):
    file = batch_file(tmp_path, deployment, CHAIN)
    page = tmp_path / "page.html"

    made = json.loads(trainctl("batch", "--batch-config", file, "--json").stdout)
    shown = trainctl("batches", "show", made["batch"], "--to", page)
    listed = json.loads(trainctl("batches", "--json").stdout)
    assert f"batch      {made['batch']}" in trainctl("status", made["jobs"]["sft"]).stdout
    stopped = trainctl("batches", "cancel", made["batch"])

    assert (made["new"], set(made["jobs"])) == (3, set(CHAIN))
    assert f"batch {made['batch']}: 3 waiting" in shown.stdout
    assert "comes after job cpt, which waits" in shown.stdout
    assert "<svg" in page.read_text()
    assert f"page {page}" in shown.stdout
    assert {"batch": made["batch"], "summary": "3 waiting"}.items() <= next(
        one for one in listed if one["batch"] == made["batch"]
    ).items()
    assert "3 jobs of batch" in stopped.stdout
    assert batch_names(made["batch"][:6]) == [made["batch"]]
    assert trainctl("batches", "show", "nowhere").returncode == 2
    assert "FILE is missing. Give it once" in trainctl("batch").stderr
    client = connected()
    found = client.ask_anything(
        "POST", "artifacts/filter", {"artifacts": {"key": {"any_": [f"batch-{made['batch']}"]}}}
    )
    assert len(found) == 1  # made once, and changed in place
    assert "3 stopped" in found[0]["data"]


def test_a_mistake_in_one_job_names_it_and_rows_of_equal_jobs_are_read_once(tmp_path: Path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"messages": []}\n')
    jobs: dict[str, Any] = {"good": {}, "bad": {"training": {"dataset": {"path": str(rows)}}}}

    with pytest.raises(ConfigError, match=r"(?s)jobs\.bad: .*rows\.jsonl:1"):
        checked_plan(batch_file(tmp_path, "train/local", jobs), None, print)
    jobs["bad"] = {"training": {"model": "/data/none"}, "matrix": {"training.seed": [1, 2, 3]}}
    said: list[str] = []
    checked_plan(batch_file(tmp_path, "train/local", jobs), "other", said.append)
    assert said == ["training.model: /data/none is not on this computer; the worker must have it"]


@pytest.mark.thorough
@pytest.mark.fault(134, "two submit one batch at the same moment")
def test_two_who_submit_at_the_same_moment_make_one_batch(deployment: str, tmp_path: Path):
    plan = plan_of(tmp_path, deployment, {f"j{n}": {} for n in range(30)})

    with ThreadPoolExecutor(3) as pool:
        done = list(pool.map(lambda _: submit(connected(), plan).runs, range(3)))

    assert done[0] == done[1] == done[2]
    assert len(runs_of(connected(), plan.name)) == 30
