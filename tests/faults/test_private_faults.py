"""What goes wrong with machines that nothing connects to: no address, no port, a bucket between."""

from __future__ import annotations

import pytest
from prefect import get_client

from flows.announcing import ask_to_pause
from flows.run_folder import RunFolder
from gateway.control import ask_cancel
from tests.clouds.store_wire import Said, StoreFault
from tests.faults.scene import MEDIUM
from tests.faults.test_run_faults_machine import SHORT_LEASE
from tests.waiting import until
from trainer.contract.checkpoints import newest_valid
from trainer.contract.job_directory import JobState

pytestmark = [pytest.mark.slow, pytest.mark.thorough]
HOME = r"checkpoint-\d+ is home"
CPU = {"resources": {"gpu_count": 0}}


@pytest.mark.fault(146, "private subnet, paused and cancelled")
@pytest.mark.parametrize("scene", ["aws-private"], indirect=True)
async def test_a_job_in_a_private_subnet_is_paused_and_cancelled_through_the_bucket(
    scene, survived
):
    run = await scene.run(scene.job(max_steps=2000, **CPU))
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
    assert scene.cloud.s3.keys() == []
    assert scene.cloud.left_over() == []


@pytest.mark.fault(147, "all of ours gone, private subnet")
@pytest.mark.parametrize("scene", ["gcp-private"], indirect=True)
async def test_a_machine_behind_a_bucket_ends_itself_when_nobody_renews_its_lease(scene, survived):
    run = await scene.run(scene.job(max_steps=2000, limits=SHORT_LEASE, **CPU))
    await scene.said(HOME)
    machine = scene.machine()

    scene.kill()
    scene.injected(run, "lost|write_off|machine 2")
    await until(lambda: not machine.processes(), 90)

    scene.again(run)
    await scene.said("started the training")
    async with get_client() as client:
        await ask_cancel(client, await client.read_flow_run(run.id))
    await survived(run, JobState.STOPPED)


@pytest.mark.fault(148, "mailbox refuses for a while")
@pytest.mark.parametrize("scene", ["azure-private"], indirect=True)
async def test_a_bucket_that_refuses_for_a_while_ends_no_job(scene, survived):
    run = await scene.run(scene.job(**MEDIUM, **CPU))
    await scene.said(HOME)

    scene.injected(run, "mailbox")
    for method in ("GET", "PUT"):
        fault = StoreFault(method, "mailboxes", times=60, answer=Said(503))
        scene.cloud.s3.faults.append(fault)

    await survived(run)
    assert len(scene.cloud.account) == 1
