"""The trainer dies or hangs, disks fill, clocks jump.

Memory that ran out and a loss that is no number end inside of the trainer, wherever it runs; see
tests/trainer/test_trouble.py (test_memory_that_ran_out_is_named,
test_memory_that_ran_out_on_the_way_costs_no_step,
test_training_that_diverged_is_ended_with_a_good_checkpoint) and tests/trainer/test_crashes.py
(test_a_batch_that_is_too_large_is_halved).
"""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from flows.run_folder import RunFolder
from tests.clouds.machines import Profile
from tests.faults.scene import MEDIUM
from tests.waiting import until
from trainer.contract.checkpoints import newest_valid
from trainer.contract.job_directory import JobState

pytestmark = [pytest.mark.slow, pytest.mark.thorough]
FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
EXIT_AT_ONCE = """
folder=$(python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
echo 'import os, sys; "trainer.training.train" in sys.orig_argv and os._exit(0)' > "$folder/gone.pth"
"""


@pytest.mark.fault(29, "trainer killed")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
async def test_a_trainer_that_a_signal_ends_is_named_and_started_again(scene, survived, number):
    run = await scene.run(scene.job(**MEDIUM))
    await scene.at_step(run, 30)

    scene.injected(run, "restart 1 of 2 after TrainerKilled")
    os.kill(scene.directory(run).read_status().trainer_pid, number)

    await survived(run)
    log = RunFolder(run.id).log.read_text()
    assert f"restart 1 of 2 after TrainerKilled: {number.name} ended the trainer" in log
    assert scene.directory(run).read_status().attempt == 2


@pytest.mark.fault(29, "trainer killed")
async def test_a_trainer_that_ends_without_a_word_is_named(scene, survived):
    run = await scene.run(scene.job(setup=EXIT_AT_ONCE.strip().splitlines()))
    await scene.said("started the training")

    scene.injected(run, "TrainingFailed", ends=True)

    await survived(run, JobState.FAILED, "^TrainingFailed: The trainer ended with exit code 0 but")


@pytest.mark.fault(30, "trainer hangs")
async def test_a_trainer_that_hangs_is_killed_and_started_again(scene, survived):
    run = await scene.run(scene.job(**MEDIUM, limits={"stall_timeout_minutes": 0.5}))
    await scene.at_step(run, 30)

    scene.injected(run, "restart 1 of 2 after TrainingStalled")
    os.kill(scene.directory(run).read_status().trainer_pid, signal.SIGSTOP)

    await survived(run)
    assert scene.directory(run).read_status().attempt == 2


@pytest.mark.fault(31, "disk full")
async def test_a_disk_that_fills_on_the_machine_keeps_the_last_checkpoint(
    scene, survived, small_disk
):
    run = await scene.run(scene.job(max_steps=2000, save_steps=20))
    machine = await until(lambda: scene.cloud.made and scene.machine())
    small_disk(machine.home / ".training-orchestrator/jobs", "22m")  # one checkpoint, not two

    await scene.said(r"checkpoint-\d+ is home")
    scene.injected(run, "DiskFull", ends=True)

    await survived(run, JobState.FAILED, r"^DiskFull: .*\d")
    assert newest_valid(RunFolder(run.id).checkpoints)[0] is not None


@pytest.mark.fault(31, "disk full")
async def test_a_disk_with_room_for_two_checkpoints_loses_old_ones_and_the_job_goes_on(
    scene, survived, small_disk
):
    run = await scene.run(scene.job(max_steps=80, save_steps=20))
    machine = await until(lambda: scene.cloud.made and scene.machine())
    small_disk(machine.home / ".training-orchestrator/jobs", "34m")
    scene.injected(run)

    await survived(run)
    assert "the disk is full: removed checkpoint-" in RunFolder(run.id).log.read_text()


@pytest.mark.fault(31, "disk full")
async def test_an_artifact_for_which_there_is_no_room_is_not_lost(
    scene, survived, small_disk, home
):
    small_disk(home / "artifacts", "100m")
    run = await scene.run(scene.job())
    await scene.said("'train-\\w+' - Finished")
    scene.injected(run)
    await scene.said(r"trouble on this computer \(HomeDiskFull: ")

    small_disk(home / "artifacts", "1g")

    await survived(run)
    assert len(scene.cloud.account) == 1


@pytest.mark.fault(31, "disk full")
async def test_a_machine_waits_while_nothing_can_come_home(scene, survived, small_disk, home):
    small_disk(home, "100m")
    run = await scene.run(scene.job())
    await scene.said("'train-\\w+' - Finished")
    scene.injected(run)
    await scene.said(r"trouble on this computer \(HomeDiskFull: ")
    assert len(scene.cloud.alive()) == 1

    small_disk(home, "2g")

    await survived(run)
    assert len(scene.cloud.account) == 1


@pytest.mark.fault(32, "clock jumps by an hour")
@pytest.mark.skipif(FAKETIME is None, reason="libfaketime is not installed")
@pytest.mark.parametrize("whose", ["ours", "the machine's"])
@pytest.mark.parametrize("hours", [1, -1])
async def test_a_clock_that_jumps_changes_nothing(
    scene, survived, monkeypatch, tmp_path, whose, hours
):
    clock = tmp_path / "clock"
    clock.write_text("+0\n")
    faked = {
        "LD_PRELOAD": str(FAKETIME),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_CACHE_DURATION": "1",  # seconds; to look each time makes training crawl
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    job = scene.job(**MEDIUM, limits={"lease_minutes": 2})
    if whose == "ours":
        with monkeypatch.context() as environment:
            for name, value in faked.items():
                environment.setenv(name, value)
            run = await scene.run(job)
    else:
        scene.cloud.profile = Profile(environment=faked)
        run = await scene.run(job)
    await scene.at_step(run, 20)

    scene.injected(run)
    clock.write_text(f"{hours * 3600:+d}\n")
    await asyncio.sleep(5)

    await survived(run)
    assert len(scene.cloud.account) == 1
    assert scene.directory(run).read_status().attempt == 1
