"""`trainctl queue`, `why`, `pool` and what is refused at `submit`, on a real Prefect server."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from prefect.states import Running
from ruamel.yaml import YAML

from flows.batches.members import TAG, tag_of
from flows.scheduling.labels import AFTER, BATCH, USER, user_name
from flows.scheduling.pool import StartJob
from gateway.cli.submitting import with_priority
from gateway.exits import Exit
from tests.flows.batches.in_prefect import batch_file
from tests.flows.scheduling.pool_site import PoolSite, pool_site
from tests.gateway.commanding import call_here, job_values, make_job


@pytest.fixture
async def site(prefect_api: str) -> AsyncIterator[PoolSite]:
    async with pool_site() as made:
        yield made


async def test_the_queue_says_who_runs_who_waits_and_why(
    site: PoolSite, capfd: pytest.CaptureFixture[str]
):
    queue = site.queue()
    runs = await site.submit("runs", resources={"gpu_count": 2})
    [start] = [one for one in await queue.decide() if isinstance(one, StartJob)]
    await queue.take(start)
    await site.set_state(runs, Running())
    waits = await site.submit("waits", priority=70, project="vision", user="ada")
    last = await site.submit("last", queue="low")
    batch = f"batch-{site.pool}"
    labels = {BATCH: batch, AFTER: "base:ok"}
    after = await site.submit("after", queue="low", labels=labels, tags=[TAG, tag_of(batch)])

    shown = await _call(capfd, "queue", "--pool", site.pool, "--json")
    found = json.loads(shown.stdout)
    assert [(one["id"], one["gpus"]) for one in found["running"]] == [(runs, ["GPU-0", "GPU-1"])]
    assert [(one["id"], one["place"]) for one in found["waiting"]] == [
        (waits, 1),
        (last, 2),
        (after, 3),
    ]
    assert (found["waiting"][0]["priority"], found["waiting"][1]["priority"]) == (70, 20)
    assert found["waiting"][0]["factors"]["priority"] == 0.7
    assert found["waiting"][2]["reason"].startswith("comes after job base, which Prefect does not")

    text = (await _call(capfd, "queue", "--pool", site.pool, "--explain")).stdout
    assert f"pool {site.pool}: balanced, 1 machines with 2 GPUs, of which 2 are in use" in text
    assert "TOGETHER" in text
    assert "is next, and waits for a GPU" in text

    text = (await _call(capfd, "why", waits)).stdout
    assert (
        f"waits as number 1 of 3 in pool {site.pool}: is next, and waits for a GPU (about " in text
    )
    assert "priority   0.700  priority 70" in text
    assert "fairness   " in text
    assert json.loads((await _call(capfd, "why", last, "--json")).stdout)["place"] == 2
    assert "is initializing" in (await _call(capfd, "why", runs)).stdout


async def test_a_pool_is_set_and_shown(site: PoolSite, capfd: pytest.CaptureFixture[str]):
    done = await _call(capfd, "pool", "set", site.pool, "strategy=fifo", "max_wait=1d")
    assert done.returncode == Exit.OK
    assert "strategy             fifo  (set)" in done.stdout
    assert "max_wait             86,400  (set)" in done.stdout
    refused = await _call(capfd, "pool", "set", site.pool, "strategy=lifo")
    assert (refused.returncode, refused.stderr.count("\n")) == (Exit.BAD_INPUT, 1)
    assert f"settings of pool {site.pool}: strategy = 'lifo': must be" in refused.stderr
    shown = json.loads((await _call(capfd, "pool", "show", site.pool, "--json")).stdout)
    assert (shown["strategy"], shown["max_wait"]) == ("fifo", 86400)
    unknown = await _call(capfd, "queue", "--pool", "absent")
    assert unknown.returncode == Exit.BAD_INPUT
    assert "Prefect has no work pool 'absent'; there are: " in unknown.stderr


async def test_what_no_machine_can_ever_hold_is_refused_at_submit(
    site: PoolSite,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
):
    path = tmp_path / "job.yaml"
    words = ("submit", path, "--deployment", f"train/{site.pool}", "--json")

    async def submit(*more: str, **resources: Any) -> Any:
        YAML().dump(job_values() | {"resources": resources, "project": "vision"}, path)
        return await _call(capfd, *words, *more)

    # Nobody knows yet what the pool has.
    done = await submit("--priority", "90", gpu_count=3)
    run = await site.run(json.loads(done.stdout)["id"])
    assert run.labels[USER] == user_name()
    assert (run.work_queue_name, run.parameters["job"]["priority"]) == ("high", 90)
    await site.queue().decide()
    refused = await submit(gpu_count=3)
    assert refused.returncode == Exit.BAD_INPUT
    assert "can never start in pool" in refused.stderr
    assert "it needs 3 GPUs at once, and no machine of the pool has more than 2" in refused.stderr
    dry = batch_file(tmp_path, f"train/{site.pool}", {"a": {"resources": {"gpu_count": 3}}})
    refused = await _call(capfd, "batch", dry, "--dry-run")
    assert refused.returncode == Exit.BAD_INPUT
    assert "resources of job a: it can never start" in refused.stderr
    theirs = {"training": {"trainer": "command", "command": {"run": ["true"]}}}
    dry.write_text(json.dumps({"jobs": {"b": {"deployment": f"train/{site.pool}", **theirs}}}))
    planned = await _call(capfd, "batch", dry, "--dry-run")
    assert planned.stdout.splitlines()[-1].split()[-1] == "command"  # not the method sft
    with monkeypatch.context() as away:
        away.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
        planned = await _call(capfd, "batch", dry, "--dry-run")
    assert planned.returncode == Exit.OK
    assert "the work pools are not looked at: Prefect's API at " in planned.stderr
    changed = await _call(capfd, "pool", "set", site.pool, "gpus=[1, 7]")
    assert f"no machine of pool {site.pool} has 7" in changed.stderr
    await site.set("quotas.vision.gpus=1")
    refused = await submit(gpu_count=2)
    assert "it needs 2 GPUs, and project vision may have 1" in refused.stderr
    assert (await submit(gpu_count=1)).returncode == Exit.OK


@pytest.mark.parametrize(
    ("asked", "of_file", "queue", "priority"),
    [
        (None, None, "default", None),
        (None, 90, "high", 90),
        ("low", 90, "low", None),
        ("10", 90, "low", 10),
        ("60", None, "default", 60),
    ],
)
def test_a_priority_is_a_queue_or_a_number(
    asked: str | None, of_file: int | None, queue: str, priority: int | None
):
    job = make_job().model_copy(update={"priority": of_file})
    with_it, its_queue = with_priority(job, asked)
    assert (its_queue, with_it.priority) == (queue, priority)


async def _call(capfd: pytest.CaptureFixture[str], *words: object) -> Any:
    import asyncio

    return await asyncio.to_thread(call_here, capfd, *words)
