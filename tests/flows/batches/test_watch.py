"""What a worker does for batches: it holds, skips, and keeps pages, by what Prefect has."""

from __future__ import annotations

import asyncio
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from prefect import get_client
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.states import Completed, Failed, Running, Scheduled

from flows.asking import asking
from flows.batches.fetching import runs_of
from flows.batches.page import JobRow, summary
from flows.batches.publishing import key_of
from flows.batches.watch import BatchWatch
from flows.scheduling.reading import Reader
from gateway.batches.submission import submit
from gateway.prefect.client import connected
from tests.flows.batches.in_prefect import deployed, plan_of

JOBS: dict[str, Any] = {
    "reward": {},
    "ppo": {"after": "reward"},
    "report": {"after": {"ppo": "any"}},
    "clean": {"after": {"reward": "failed"}},
}


class Pages:
    """The pages of one batch that were made."""

    def __init__(self, batch: str) -> None:
        self.batch = batch
        self.summaries: list[str] = []
        self.fails = 0

    async def __call__(self, batch: str, found: list[JobRow], now: datetime) -> None:
        if batch != self.batch:  # of another test that ended a moment ago on this server
            return
        if self.fails:
            self.fails -= 1
            raise OSError("no room")
        self.summaries.append(summary(found))


class Scene:
    """A batch in a pool, and a worker's look at it."""

    def __init__(self, client: PrefectClient, pool: str, batch: str) -> None:
        self.client, self.pool, self.batch = client, pool, batch
        self.now, self.pages = 0.0, Pages(batch)
        self.watch = BatchWatch(client, clock=lambda: self.now, publishing=self.pages)

    async def held(self) -> dict[str, str]:
        self.now += 10
        waiting = await Reader(asking(self.client), self.pool).waiting()
        found = await self.watch.held(waiting.values())
        return {waiting[id].name: text for id, text in found.items()}

    async def run(self, name: str) -> FlowRun:
        return {run.name: run for run in await runs_of(self.client, self.batch)}[name]


@pytest.fixture
async def scene(prefect_api: str, tmp_path: Path):
    deployment = await deployed()
    plan = plan_of(tmp_path, deployment, JOBS)
    await asyncio.to_thread(submit, connected(), plan)
    async with get_client() as client:
        yield Scene(client, deployment.partition("/")[2], plan.name)


async def test_a_job_is_held_until_those_before_it_have_ended(scene: Scene):
    scene.pages.fails = 1  # it is made the next time, and holds nothing up
    first = await scene.held()
    reward = await scene.run("reward")
    await scene.client.set_flow_run_state(reward.id, Running(message="trains"), force=True)
    running = await scene.held()
    await scene.client.set_flow_run_state(reward.id, Completed(), force=True)
    after = await scene.held()
    await scene.held()

    assert first == {
        "ppo": "comes after job reward, which waits",
        "report": "comes after job ppo, which waits",
        "clean": "comes after job reward, which waits",
    }
    assert running.keys() == first.keys()
    assert after["clean"] == "comes after the failure of job reward, which is completed"
    assert "ppo" not in after
    skipped = (await scene.run("clean")).state
    assert skipped is not None
    assert (skipped.name, skipped.is_cancelled()) == ("Skipped", True)
    assert scene.pages.summaries[0] == "1 running, 3 waiting"
    assert scene.pages.summaries[-1] == "2 waiting, 1 skipped, 1 completed"


async def test_what_comes_after_a_failure_ends_with_a_message_and_the_rest_goes_on(scene: Scene):
    await scene.held()
    reward = await scene.run("reward")
    failed = Failed(message="OutOfMemory: too much. Lower it.")
    await scene.client.set_flow_run_state(reward.id, failed, force=True)

    held = await scene.held()

    assert (await scene.run("ppo")).state.is_scheduled()  # type: ignore[union-attr]
    assert await scene.held() == held
    assert held == {"ppo": "comes after job reward, which failed (OutOfMemory: too much)"}
    assert await scene.held() == {}
    state = (await scene.run("ppo")).state
    assert state is not None
    assert state.message == held["ppo"]


@pytest.mark.thorough
async def test_a_failed_job_that_is_tried_again_ends_nothing_though_its_failure_was_seen(
    scene: Scene,
):
    await scene.held()
    reward = await scene.run("reward")
    await scene.client.set_flow_run_state(reward.id, Failed(), force=True)
    scene.now += 10
    await scene.watch.held([])  # the failure is noted, with nothing to be judged
    again = Scheduled(name="Resuming")
    await scene.client.set_flow_run_state(reward.id, again, force=True)
    await scene.client.set_flow_run_state(reward.id, Running(message="trains"), force=True)

    held = await scene.held()

    assert held["ppo"] == "comes after job reward, which runs"
    assert (await scene.run("ppo")).state.is_scheduled()  # type: ignore[union-attr]


@pytest.mark.thorough
async def test_the_page_is_one_artifact_and_one_file(scene: Scene, home: Path):
    watch = BatchWatch(scene.client)
    waiting = await Reader(asking(scene.client), scene.pool).waiting()

    await watch.held(waiting.values())
    await BatchWatch(scene.client).held(waiting.values())

    found = await asking(scene.client)(
        "/artifacts/filter", {"artifacts": {"key": {"any_": [key_of(scene.batch)]}}}
    )
    assert len(found) == 1
    assert "4 waiting" in found[0]["data"]
    assert "data:image/svg+xml;base64," in found[0]["data"]
    assert (home / "batches" / f"{scene.batch}.html").read_text().startswith("<!doctype html>")
