"""A batch is executed by a worker to its end: in order, with what one leaves, tried again, skipped, drawn."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from flows.asking import asking
from flows.batches.fetching import runs_of
from flows.batches.members import TRIED
from flows.batches.publishing import file_of, key_of
from flows.run_folder import RunFolder
from gateway.batches import changing
from gateway.batches.submission import submit
from gateway.prefect.client import connected
from tests.deployments.training_site import TrainingSite, training_site, working
from tests.flows.batches.in_prefect import plan_of
from tests.flows.flow_runs import Job
from tests.stand_in import stand_in
from tests.waiting import until

pytestmark = [
    pytest.mark.usefixtures("prefect_api"),
    pytest.mark.xdist_group("training-worker"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]
ON_CPU = {"resources": {"gpu_count": 0, "cpu_threads": 1}}
OUT_OF_MEMORY = "torch.OutOfMemoryError: CUDA out of memory."


@pytest.fixture
async def site():
    async with training_site() as made:
        yield made


def trained(folder: Path, *words: object, first: str = "true", **fields: Any) -> dict[str, Any]:
    """Return a job of the stand-in, before which a line of the shell runs."""
    training = stand_in(folder, "--steps", 4, "--save", 2, *words)
    run = " ".join(map(str, training["command"]["run"]))
    training["command"]["run"] = f"{first} && {run}"
    return {"training": training, **fields}


async def states(site: TrainingSite, batch: str) -> dict[str, str]:
    return {run.name: run.state.name for run in await runs_of(site.client, batch) if run.state}


@pytest.mark.thorough
@pytest.mark.fault(132, "a batch in which jobs fail, once and for good")
async def test_a_batch_is_executed_to_its_end(site: TrainingSite, tmp_path: Path):
    once = tmp_path / "failed-once"
    jobs = {
        "base": trained(tmp_path),
        "tune": trained(tmp_path, first='test -f "${base.output}/model.safetensors"'),
        "flaky": trained(
            tmp_path,
            first=f"{{ test -e {once} || {{ touch {once}; echo '{OUT_OF_MEMORY}'; exit 1; }}; }}",
            retries={"max": 2, "backoff_seconds": 0, "errors": ["OutOfMemory"]},
        ),
        "broken": trained(tmp_path, first="exit 3", retries={"max": 5, "errors": ["OutOfMemory"]}),
        "skipped": {**trained(tmp_path), "after": ["broken", "tune"]},
        "clean": {**trained(tmp_path), "after": {"broken": "failed", "flaky": "ok"}},
    }
    plan = plan_of(tmp_path, f"train/{site.pool}", jobs, max_concurrent=2, defaults=ON_CPU)
    await asyncio.to_thread(submit, connected(), plan)

    async def at_rest() -> dict[str, str] | None:
        found = await states(site, plan.name)
        rest = {"Completed", "Failed", "Skipped", "Cancelled", "Stopped"}
        return found if set(found.values()) <= rest else None

    async with working(site, 4):
        found = await until(at_rest)
        artifacts = await until(lambda: _page(site, plan.name, "4 completed"))

    assert found == {
        **dict.fromkeys(("base", "tune", "flaky", "clean"), "Completed"),
        "broken": "Failed",
        "skipped": "Skipped",
    }
    runs = {run.name: run for run in await runs_of(site.client, plan.name)}
    assert runs["tune"].start_time >= runs["base"].end_time
    assert runs["clean"].start_time >= max(runs["broken"].end_time, runs["flaky"].end_time)
    assert runs["flaky"].labels[TRIED] == 1
    assert TRIED not in runs["broken"].labels
    assert "comes after job broken, which failed" in runs["skipped"].state.message
    kept = json.loads(RunFolder(runs["tune"].id).outputs.read_text())
    assert kept == {"base": str(RunFolder(runs["base"].id).artifact("base", None))}
    assert "1 failed, 1 skipped, 4 completed" in artifacts[0]["data"]
    assert "1 skipped" in file_of(plan.name).read_text()


async def _page(site: TrainingSite, batch: str, text: str) -> list[dict[str, Any]] | None:
    named = {"artifacts": {"key": {"any_": [key_of(batch)]}}}
    found: list[dict[str, Any]] = await asking(site.client)("/artifacts/filter", named)
    return found if found and text in found[0]["data"] else None


@pytest.mark.thorough
@pytest.mark.fault(133, "a batch paused, resumed and cancelled in the middle")
async def test_a_batch_is_paused_resumed_and_cancelled_while_it_trains(
    site: TrainingSite, home: Path, tmp_path: Path
):
    go = tmp_path / "go"
    jobs = {
        "one": trained(tmp_path, "--steps", 9, "--hold", 6, "--go", go),
        "two": {**trained(tmp_path), "after": "one"},
        "three": {**trained(tmp_path, "--hold", 3), "after": "two"},
        "four": {**trained(tmp_path), "after": "three"},
    }
    plan = plan_of(tmp_path, f"train/{site.pool}", jobs, defaults=ON_CPU)
    client = connected()
    runs = (await asyncio.to_thread(submit, client, plan)).runs

    async with working(site, 4):
        await Job(home, runs["one"]).at_step(5)
        await asyncio.to_thread(changing.pause, client, plan.name)
        paused = await until(lambda: _all(site, plan.name, {"Paused"}))
        go.touch()
        await asyncio.to_thread(changing.resume, client, plan.name)
        await Job(home, runs["three"]).at_step(3)
        resumed = await states(site, plan.name)
        await asyncio.to_thread(changing.cancel, client, plan.name)
        ended = await until(lambda: _all(site, plan.name, {"Completed", "Stopped", "Cancelled"}))

    assert paused
    assert (resumed["one"], resumed["two"]) == ("Completed", "Completed")
    assert "resumed at" in RunFolder(runs["one"]).log.read_text()
    assert {ended["three"], ended["four"]} <= {"Stopped", "Cancelled"}


async def _all(site: TrainingSite, batch: str, names: set[str]) -> dict[str, str] | None:
    found = await states(site, batch)
    return found if set(found.values()) <= names else None
