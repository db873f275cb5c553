"""A supervisor takes the job's GPUs before it starts a trainer, and both hold them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from tests.trainer.supervised import ENVIRONMENT, Supervised, command
from tests.waiting import PATIENCE, until_now
from trainer.contract.files import replace_json
from trainer.contract.gpu_locks import Allocation, Holder, holders, take
from trainer.contract.job_directory import JobState

TRAIN = """
print(os.environ["CUDA_VISIBLE_DEVICES"])
state("running")
wait_for((job.root / "go").exists)
state("completed")
"""


@pytest.fixture
def job(tmp_path):
    supervised = Supervised(tmp_path / "job", TRAIN)
    record = json.loads(supervised.job.job.read_text())
    supervised.write_job(**record, run_id="0123456789ab", name="mine")
    replace_json(supervised.job.gpus, {"uuids": ["GPU-1", "GPU-0"]})
    return supervised


def run(job, *options):
    return subprocess.run(
        command(job.job.root, *options),
        # The folder of the locks is the test's own.
        env={**ENVIRONMENT, **os.environ},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def names(uuid="GPU-0"):
    return [one.name for one in holders(uuid)]


def end_of(job):
    (job.job.root / "go").touch()
    until_now(lambda: not job.job.is_alive())


def test_both_hold_the_gpus_until_both_are_gone(job):
    pid = json.loads(run(job, "--detach").stdout)["pid"]
    job.until(JobState.RUNNING)
    [holder] = holders("GPU-1")
    assert (holder.name, holder.run, holder.pid) == ("mine", "0123456789ab", pid)

    os.kill(pid, signal.SIGKILL)  # the trainer goes on, and so does its hold
    until_now(lambda: job.status.trainer_pid and not _is_supervised(pid))
    assert names("GPU-0") == names("GPU-1") == ["mine"]

    end_of(job)
    assert names("GPU-0") == names("GPU-1") == []
    assert job.log == "GPU-1,GPU-0\n"


def _is_supervised(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("first", ["trainer", "both"])
def test_a_kill_frees_the_gpus(job, first):
    pid = json.loads(run(job, "--detach").stdout)["pid"]
    job.until(JobState.RUNNING)
    trainer = job.status.trainer_pid
    if first == "both":
        os.kill(pid, signal.SIGSTOP)  # it must not start another
    os.kill(trainer, signal.SIGKILL)
    if first == "both":
        os.kill(pid, signal.SIGKILL)
    else:  # the supervisor holds them while it starts the trainer again
        until_now(lambda: job.status.trainer_pid not in {None, trainer})
        assert names() == ["mine"]
        end_of(job)

    until_now(lambda: names() == [])


def test_nothing_starts_on_gpus_that_another_has(job):
    with take(Allocation(uuids=("GPU-1",)), Holder.here(name="another")):
        detached, here = run(job, "--detach"), run(job)

    answer = json.loads(detached.stdout)
    assert (answer["pid"], answer["already_running"]) == (None, False)
    assert answer["gpus_taken"].startswith("GPU-1 is taken by another of ")
    assert (detached.returncode, here.returncode) == (6, 6)
    assert "GPU-1 is taken by another of " in here.stderr
    assert not job.job.is_alive()
    assert job.status.state is JobState.CREATED
    assert names("GPU-0") == []


def test_a_file_that_names_no_gpus_is_bad_usage(job):
    replace_json(job.job.gpus, {"uuids": ["../etc"]})

    done, detached = run(job), run(job, "--detach")

    assert (done.returncode, "gpus.json" in done.stderr) == (2, True)
    assert detached.returncode == 2
    assert json.loads(detached.stdout)["refused"]["class"] == "ConfigError"


@pytest.mark.skipif(sys.platform != "linux", reason="GPUs are held on Linux")
def test_a_share_is_held_as_one(job):
    replace_json(job.job.gpus, {"uuids": ["GPU-0"], "share_gb": 10, "vram_gb": 24})
    run(job, "--detach")
    job.until(JobState.RUNNING)

    with take(Allocation(uuids=("GPU-0",), share_gb=14, vram_gb=24), Holder.here(name="b")):
        assert sorted((one.name, one.share_gb) for one in holders("GPU-0")) == [
            ("b", 14),
            ("mine", 10),
        ]
    end_of(job)
