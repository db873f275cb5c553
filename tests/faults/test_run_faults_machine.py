"""The machine is taken back, its supervisor dies, or everybody but the machine is gone."""

from __future__ import annotations

import os
import signal

import psutil
import pytest
from prefect import get_client

from flows.announcing import ask_to_pause
from flows.run_folder import RunFolder
from gateway.control import ask_cancel
from tests.faults.scene import MEDIUM
from tests.processes import command_lines
from tests.waiting import until
from trainer.contract.checkpoints import newest_valid, step_of
from trainer.contract.job_directory import JobState

pytestmark = pytest.mark.slow
SHORT_LEASE = {"lease_minutes": 0.25, "stop_grace_seconds": 10}


@pytest.mark.thorough  # a minute; the other rows of this file show the way there and back
@pytest.mark.fault(27, "machine taken back")
async def test_a_machine_taken_back_is_replaced_and_no_step_is_skipped(scene, survived):
    run = await scene.run(scene.job(**MEDIUM))
    await scene.said(r"checkpoint-\d+ is home")

    scene.injected(run)
    scene.cloud.preempt(scene.cloud.alive()[0])

    await survived(run)
    assert "continuing from checkpoint-" in (scene.folder / "flow.log").read_text()
    assert [hire.attempt for hire in scene.hires(run)] == [1, 2]


@pytest.mark.thorough
@pytest.mark.fault(27, "machine taken back")
@pytest.mark.parametrize(
    ("words", "how"),
    [
        (r"is provisioning", "preempt"),
        (r"is provisioning", "kill_machine"),
        (r"'provision-\w+' - Finished", "preempt"),
        (r"uploading dataset", "kill_machine"),
        (r"started the training", "preempt"),
        (r"'train-\w+' - Finished", "kill_machine"),
    ],
    ids=["boot", "boot, deleted", "install", "upload", "start", "download"],
)
async def test_a_machine_taken_back_at_any_moment_is_replaced(scene, survived, words, how):
    run = await scene.run(scene.job())
    await scene.said(words)

    scene.injected(run)
    getattr(scene.cloud, how)(scene.cloud.alive()[0])

    await survived(run)
    assert len(scene.cloud.account) == 2


@pytest.mark.thorough
@pytest.mark.fault(27, "machine taken back")
async def test_a_machine_taken_back_while_it_saves_leaves_no_half_checkpoint(scene, survived):
    run = await scene.run(scene.job(**MEDIUM | {"save_steps": 5}))
    await scene.said(r"checkpoint-\d+ is home")

    saving = scene.directory(run).checkpoints / ".saving"
    await until(lambda: saving.is_dir() and any(saving.iterdir()))
    scene.injected(run)
    scene.cloud.preempt(scene.cloud.alive()[0])

    await survived(run)
    assert [hire.attempt for hire in scene.hires(run)] == [1, 2]


@pytest.mark.thorough
@pytest.mark.fault(33, "supervisor killed")
@pytest.mark.parametrize(
    ("number", "both"),
    [
        pytest.param(signal.SIGKILL, False, id="supervisor"),
        pytest.param(signal.SIGKILL, True, id="supervisor and trainer"),
        # As all processes get it when their computer goes down.
        pytest.param(signal.SIGTERM, True, id="both told to end"),
    ],
)
async def test_a_training_whose_supervisor_was_killed_is_still_brought_home(
    scene, survived, number, both
):
    run = await scene.run(scene.job(**MEDIUM))
    await scene.at_step(run, 30)
    status = scene.directory(run).read_status()

    scene.injected(run, "nobody works")
    os.kill(status.pid, number)
    if both:
        os.kill(status.trainer_pid, number)

    await survived(run)
    assert scene.directory(run).read_status().attempt == (2 if both else 1)
    assert len(scene.cloud.account) == 1


@pytest.mark.thorough
@pytest.mark.fault(34, "lease expires")
async def test_a_machine_that_nobody_renews_saves_and_ends_itself(scene, survived):
    run = await scene.run(scene.job(max_steps=2000, limits=SHORT_LEASE))
    await scene.said(r"checkpoint-\d+ is home")
    directory = scene.directory(run)

    scene.kill()
    scene.injected(run, "lost|write_off|machine 2")
    await until(lambda: not scene.cloud.alive(), 90)

    status = directory.read_status()
    assert (status.state, status.reason.partition(":")[0]) == ("stopped", "lease expired")
    saved, _ = newest_valid(directory.checkpoints)
    assert saved is not None
    assert step_of(saved) == status.step
    mirrored, _ = newest_valid(RunFolder(run.id).checkpoints)
    scene.again(run)
    await scene.said(f"continuing from {mirrored.name}")
    await scene.said("started the training")
    async with get_client() as client:
        await ask_cancel(client, await client.read_flow_run(run.id))
    await survived(run, JobState.STOPPED)
    assert len(scene.cloud.account) == 2


@pytest.mark.thorough
@pytest.mark.fault(71, "machine taken back while pausing")
async def test_a_job_that_shall_pause_hires_no_machine_for_the_one_it_lost(scene, survived):
    run = await scene.run(scene.job(max_steps=2000))
    await scene.said(r"checkpoint-\d+ is home")
    for pid, words in command_lines(scene.machine().processes()).items():
        if any(word.startswith("trainer") for word in words):
            psutil.Process(pid).suspend()  # so that it does not save in time
    async with get_client() as client:
        await ask_to_pause(client, run.id)
    await scene.said("asked to pause")

    scene.injected(run, "was taken back", ends=True)
    scene.cloud.preempt(scene.cloud.alive()[0])

    await survived(run, JobState.PAUSED, "paused; saved at step")
    assert [hire.attempt for hire in scene.hires(run)] == [1]
