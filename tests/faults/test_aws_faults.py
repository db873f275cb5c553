"""What happens at AWS and nowhere else: notices, 500s that mean no capacity, shutdowns that end the bill."""

from __future__ import annotations

import pytest
from prefect import get_client

from gateway.control import ask_cancel
from tests.clouds.faults import Fault
from tests.faults.test_run_faults_machine import SHORT_LEASE
from tests.waiting import until
from trainer.contract.checkpoints import newest_valid, step_of
from trainer.contract.events import parse_events
from trainer.contract.job_directory import JobState

pytestmark = [
    pytest.mark.slow,
    pytest.mark.thorough,
    pytest.mark.parametrize("scene", ["aws"], indirect=True),
]
SPOT = {"resources": {"gpu_count": 0, "cpu_threads": 1, "spot": True}}


@pytest.mark.fault(101, "spot taken back, with notice")
async def test_what_a_spot_machine_learned_until_its_notice_is_not_lost(scene, survived):
    # Nothing is saved but on the notice, and at the end.
    run = await scene.run(scene.job(max_steps=200, eval_steps=100, save_steps=1000, **SPOT))
    step = await scene.at_step(run, 10)
    [machine] = scene.cloud.alive()
    directory = scene.directory(run)

    scene.injected(run, "takes this machine back")
    scene.cloud.announce(machine)
    home = await scene.said(r"checkpoint-\d+ is home")
    saved, _ = newest_valid(directory.checkpoints)
    scene.cloud.preempt(machine)

    await survived(run)
    events = parse_events(directory.events.read_bytes().splitlines())
    assert [event.kind for event in events if event.kind == "notice"] == ["notice"]
    assert step_of(saved) >= step
    assert home.startswith(saved.name)
    assert f"continuing from {saved.name}" in (scene.folder / "flow.log").read_text()
    assert [(hire.attempt, hire.spot) for hire in scene.hires(run)] == [(1, True), (2, True)]
    assert scene.cloud.left_over() == []


@pytest.mark.fault(102, "no capacity as a 500, then no answer")
async def test_a_zone_without_capacity_leads_to_the_next_and_no_order_is_doubled(scene, survived):
    scene.cloud.no_capacity = {"us-east-1a", "eu-central-1a"}
    lost = Fault(kind="commit_then_drop", path="/RunInstances$")
    run = await scene.run(scene.job())
    await scene.said("InsufficientInstanceCapacity")

    scene.injected(run, "machine 2")
    scene.cloud.faults.add(lost)

    await survived(run)
    assert len(scene.cloud.account) == 1
    assert "InsufficientInstanceCapacity" in scene.hires(run)[0].cause
    [rented] = scene.cloud.all
    assert rented.facts["zone"][-1] != "a"
    assert scene.cloud.left_over() == []


@pytest.mark.fault(103, "shut down from within")
async def test_a_machine_that_somebody_shuts_down_there_is_gone_and_replaced(scene, survived):
    run = await scene.run(scene.job(max_steps=200, eval_steps=100, save_steps=20))
    await scene.said(r"checkpoint-\d+ is home")
    [machine] = scene.cloud.alive()

    scene.injected(run)
    (scene.cloud.folder / machine / "off").write_text("shutdown -h now")

    await survived(run)
    assert len(scene.cloud.account) == 2
    assert scene.cloud.left_over() == []


@pytest.mark.fault(104, "all of ours gone, at AWS")
async def test_a_machine_that_nobody_renews_terminates_itself(scene, survived):
    run = await scene.run(scene.job(max_steps=2000, limits=SHORT_LEASE, **SPOT))
    await scene.said(r"checkpoint-\d+ is home")

    scene.kill()
    scene.injected(run, "lost|write_off|machine 2")
    await until(lambda: not scene.cloud.alive(), 90)

    assert scene.cloud.left_over() == []  # neither a disk nor a spot request
    scene.again(run)
    await scene.said("started the training")
    async with get_client() as client:
        await ask_cancel(client, await client.read_flow_run(run.id))
    await survived(run, JobState.STOPPED)
    assert scene.cloud.left_over() == []
