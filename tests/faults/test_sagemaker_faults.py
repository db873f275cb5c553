"""What goes wrong with a training job of SageMaker, whose machine is reached through a bucket."""

from __future__ import annotations

import pytest
from prefect import get_client

from flows.announcing import ask_to_pause
from flows.run_folder import RunFolder
from gateway.control import ask_cancel
from tests.faults.scene import MEDIUM
from tests.waiting import until
from trainer.contract.checkpoints import newest_valid
from trainer.contract.events import Kind
from trainer.contract.job_directory import JobState

pytestmark = [
    pytest.mark.slow,
    pytest.mark.thorough,
    pytest.mark.parametrize("scene", ["sagemaker"], indirect=True),
]
HOME = r"checkpoint-\d+ is home"


@pytest.mark.fault(110, "managed spot interrupted")
async def test_an_interrupted_job_is_replaced_from_its_newest_checkpoint(scene, survived):
    run = await scene.run(scene.job(**MEDIUM, resources={"gpu_count": 0, "spot": True}))
    await scene.said(HOME)

    scene.injected(run)
    scene.cloud.preempt(scene.cloud.alive()[0])

    await survived(run)
    assert "continuing from checkpoint-" in (scene.folder / "flow.log").read_text()
    assert [hire.attempt for hire in scene.hires(run)] == [1, 2]


@pytest.mark.fault(111, "job stopped by somebody else")
async def test_a_job_that_others_stop_saves_at_once_and_goes_on_elsewhere(scene, survived):
    run = await scene.run(scene.job(**MEDIUM))
    await scene.at_step(run, 20)

    scene.injected(run)
    scene.cloud.stop_seconds = 20.0
    scene.cloud.stopped_by_others(scene.cloud.alive()[0])

    await until(lambda: Kind.NOTICE in RunFolder(run.id).events.read_text())
    assert len(scene.cloud.account) == 1
    await survived(run)
    assert [hire.attempt for hire in scene.hires(run)] == [1, 2]
    assert "continuing from checkpoint-" in (scene.folder / "flow.log").read_text()


@pytest.mark.fault(112, "no capacity, after the order")
async def test_what_has_no_capacity_gives_way_to_the_next_kind(scene, survived):
    scene.cloud.no_capacity = {"ml.m5.large"}
    run = await scene.run(scene.job())

    scene.injected(run, "Unable to provision")

    await survived(run)
    assert [hire.instance_type for hire in scene.hires(run)] == ["ml.m5.large", "ml.m5.xlarge"]


@pytest.mark.fault(113, "flow killed, job behind a mailbox")
async def test_a_killed_flow_finds_its_job_again_through_the_bucket(scene, survived):
    run = await scene.run(scene.job(**MEDIUM))
    await scene.said(HOME)

    scene.kill()
    scene.injected(run)
    scene.again(run)

    await survived(run)
    assert len(scene.cloud.account) == 1


@pytest.mark.fault(114, "paused and cancelled, job behind a mailbox")
async def test_a_paused_job_gives_its_machine_back_and_a_resumed_one_is_cancelled(scene, survived):
    run = await scene.run(scene.job(max_steps=2000))
    await scene.said(HOME)
    async with get_client() as client:
        await ask_to_pause(client, run.id)
    assert await scene.ended(run) is JobState.PAUSED
    assert scene.cloud.alive() == []
    scene.again(run)
    await scene.said("continuing from checkpoint-")
    await scene.said(HOME)

    scene.injected(run, "asked to stop", ends=True)
    async with get_client() as client:
        await ask_cancel(client, await client.read_flow_run(run.id))

    await survived(run, JobState.STOPPED, "cancelled; saved at step")
    checkpoint, _ = newest_valid(RunFolder(run.id).checkpoints)
    assert checkpoint is not None
    assert checkpoint.name == f"checkpoint-{scene.directory(run).read_status().step}"
    await until(lambda: scene.cloud.s3.keys() == [])
