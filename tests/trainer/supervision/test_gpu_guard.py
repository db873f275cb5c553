from __future__ import annotations

import os

import pytest

from tests.trainer import supervised
from tests.trainer.supervised import Supervised
from tests.waiting import until_now
from trainer.contract.files import replace_json
from trainer.contract.gpu_files import sickness
from trainer.contract.job_directory import JobState
from trainer.supervision import gpu_guard
from trainer.supervision.gpu_guard import LEAST_FREE_GB, Step, next_step, read_sight

OBEDIENT = """
state("running")
wait_for(lambda: wanted() != "run")
state("paused", reason="as asked")
"""
DEAF = "state('running'); time.sleep(600)"


@pytest.fixture
def job(tmp_path, pretended_gpus, monkeypatch):
    """A job with 10 of 24 GiB of a GPU; its supervisor finds the pretended GPUs in its environment."""
    monkeypatch.setattr(supervised, "ENVIRONMENT", {**supervised.ENVIRONMENT, **os.environ})
    pretended_gpus.set_up(2)

    def make(script):
        made = Supervised(tmp_path / "job", script)
        share = {"uuids": ["GPU-0"], "share_gb": 10, "vram_gb": 24}
        replace_json(made.job.gpus, share)
        return made

    return make


def uses(pretended_gpus, job, own, others=0.0):
    pid = job.status.trainer_pid
    processes = [{"pid": pid, "used_gb": own}, {"pid": os.getpid(), "used_gb": others}]
    pretended_gpus.change("GPU-0", processes=processes)


def kinds(job):
    return [event.kind for event in job.events]


@pytest.mark.parametrize(
    ("used", "free", "looks", "step"),
    [
        (10.2, 9, 0, Step.NONE),  # contexts and fragments
        (10.2, 0, 9, Step.NONE),
        (11, 9, 0, Step.WARN),
        (11, 9, 1, Step.NONE),
        (11, 9, 3, Step.PAUSE),
        (11, 9, 4, Step.NONE),  # once
        (11, LEAST_FREE_GB / 2, 0, Step.END),
    ],
)
def test_a_job_above_its_share_is_warned_then_paused_and_ended_where_others_are_hurt(
    used, free, looks, step
):
    assert next_step(used, 10, free, looks) is step


def test_a_job_above_its_share_is_warned_and_pauses_with_what_it_has(job, pretended_gpus):
    obedient = job(OBEDIENT)
    supervisor = obedient.start()
    obedient.until(JobState.RUNNING)

    uses(pretended_gpus, obedient, 14)

    assert supervisor.wait() == 3
    assert obedient.status.state is JobState.PAUSED
    assert obedient.status.reason == "the job uses 14.0 GiB of GPU-0, and its share is 10"
    assert kinds(obedient) == ["gpu_memory", "gpu_memory"]
    assert "it will have to pause" in obedient.log


def test_a_job_that_leaves_nothing_to_others_is_ended_by_name(job, pretended_gpus):
    deaf = job(DEAF)
    supervisor = deaf.start()
    deaf.until(JobState.RUNNING)

    uses(pretended_gpus, deaf, 10, others=13.9)  # the others use much, which is theirs
    uses(pretended_gpus, deaf, 15, others=8.9)

    assert supervisor.wait() == 1
    assert deaf.status.error["class"] == "ShareExceeded"
    assert deaf.status.error["message"] == (
        "The job uses 15.0 GiB of GPU-0, and its share is 10; 0.1 GiB were left."
    )


def test_a_gpu_that_breaks_ends_the_training_and_is_nobodys_from_then_on(job, pretended_gpus):
    deaf = job(DEAF)
    supervisor = deaf.start()
    deaf.until(JobState.RUNNING)

    pretended_gpus.change("GPU-0", sick="GPU is lost")

    assert supervisor.wait() == 1
    assert deaf.status.error["class"] == "GpuSick"
    assert sickness("GPU-0") == "GPU is lost"
    assert kinds(deaf) == ["gpu_sick"]


def test_what_cuda_says_of_a_broken_gpu_takes_it_out_of_use(job):
    failing = job("print('CUDA error: uncorrectable ECC error encountered'); sys.exit(1)")

    assert failing.start().wait() == 1

    assert failing.status.error["class"] == "GpuSick"
    assert sickness("GPU-0") == "the trainer met 'uncorrectable ECC error'"
    assert sickness("GPU-1") == ""


def test_nvidia_smi_is_read_with_what_it_says_of_broken_gpus():
    said = (
        "Unable to determine the device handle for GPU0000:3B:00.0: GPU is lost.  Reboot\n"
        "GPU-a, 1024\nGPU-b, [N/A]\n@\nGPU-a, 77, 2048\nGPU-a, 78, [N/A]\nMIG-c, 79, 512\n"
    )

    sight = read_sight(said, ["GPU-a", "GPU-lost", "MIG-c"])

    assert sight.free_gb == {"GPU-a": 1.0}
    assert sight.used_gb == {"GPU-a": {77: 2.0}, "MIG-c": {79: 0.5}}
    assert list(sight.sick) == ["GPU-lost"]
    assert sight.sick["GPU-lost"].endswith("GPU is lost.  Reboot")


@pytest.mark.parametrize(
    "said", ["", "@", "NVIDIA-SMI has failed\n@\n", "sh: nvidia-smi: not found\n"]
)
def test_a_driver_that_answers_nothing_proves_nothing(said):
    assert read_sight(said, ["GPU-a"]).sick == {}


def test_nvidia_smi_is_asked_beside_the_training(tmp_path, monkeypatch):
    script = tmp_path / "nvidia-smi"
    script.write_text(
        "#!/bin/sh\ncase $1 in --query-gpu*) echo GPU-a, 512;; *) echo GPU-a, 7, 256;; esac\n"
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    driver = gpu_guard._Question()

    driver.ask()
    sight = until_now(lambda: driver.answer(["GPU-a"]))

    assert (sight.free_gb, sight.used_gb) == ({"GPU-a": 0.5}, {"GPU-a": {7: 0.25}})
    assert driver.answer(["GPU-a"]) is None  # once
    script.write_text("#!/bin/sh\nexec sleep 600\n")
    monkeypatch.setattr(gpu_guard, "GIVE_UP_SECONDS", 0.1)
    driver.ask()
    until_now(lambda: driver.answer(["GPU-a"]) is None and driver._process is None)
