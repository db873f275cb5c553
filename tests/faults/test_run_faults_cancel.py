"""Cancelled at every moment: stopped, paid no longer, and the checkpoint is at home."""

from __future__ import annotations

import pytest
from prefect import get_client
from prefect.states import Cancelling

from flows.run_folder import RunFolder
from gateway.control import ask_cancel, until_stopped
from trainer.contract.checkpoints import newest_valid
from trainer.contract.job_directory import JobState

pytestmark = pytest.mark.slow
TRAINING = r"checkpoint-\d+ is home"
MOMENTS = (
    r"Beginning flow run",
    r"'place-\w+' - Finished",
    r"is provisioning",
    r"'provision-\w+' - Finished",
    r"'install-\w+' - Finished",
    r"started the training",
    r"'train-\w+' - Finished",
    r"'download-\w+' - Finished",
)


async def cancel(run) -> None:
    async with get_client() as client:
        await ask_cancel(client, await client.read_flow_run(run.id))


@pytest.mark.fault(25, "cancelled")
@pytest.mark.thorough
async def test_a_job_cancelled_while_training_is_stopped_with_its_checkpoint(scene, survived):
    run = await scene.run(scene.job(max_steps=2000))
    await scene.said(TRAINING)

    scene.injected(run, "asked to stop", ends=True)
    await cancel(run)

    await survived(run, JobState.STOPPED, "cancelled; saved at step")
    checkpoint, _ = newest_valid(RunFolder(run.id).checkpoints)
    assert checkpoint is not None
    assert checkpoint.name == f"checkpoint-{scene.directory(run).read_status().step}"


@pytest.mark.thorough
@pytest.mark.fault(25, "cancelled")
@pytest.mark.parametrize("words", MOMENTS)
async def test_a_job_cancelled_at_any_moment_is_stopped(scene, survived, words):
    run = await scene.run(scene.job(max_steps=60 if "Finished" in words[-8:] else 2000))
    await scene.said(words)

    with scene.frozen():  # the rest of a short job takes less time than to cancel it
        scene.injected(run, "asked to stop|cancel", ends=True)
        await cancel(run)

    await survived(run, JobState.STOPPED)


@pytest.mark.thorough
@pytest.mark.fault(25, "cancelled")
async def test_a_job_cancelled_while_its_machine_does_not_boot_waits_no_longer(scene, survived):
    scene.cloud.never_boot = True
    run = await scene.run(scene.job())
    await scene.said("is provisioning")

    scene.injected(run, "cancel", ends=True)
    await cancel(run)

    await scene.ended(run, 60)
    await survived(run, JobState.STOPPED, "cancelled; before the first step")


@pytest.mark.thorough
@pytest.mark.fault(25, "cancelled")
async def test_cancelling_twice_and_killing_meanwhile_stops_once(scene, survived):
    run = await scene.run(scene.job(max_steps=2000))
    await scene.said(TRAINING)

    scene.injected(run, "asked to stop", ends=True)
    await cancel(run)
    await scene.said("asked to stop")
    async with get_client() as client:
        await client.set_flow_run_state(run.id, Cancelling())
    scene.kill()
    async with get_client() as client:
        await until_stopped(client, run.id, wait=True)

    await survived(run, JobState.STOPPED, "cancelled")
    assert newest_valid(RunFolder(run.id).checkpoints)[0] is not None
