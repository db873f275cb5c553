"""`python -m trainer` with its real trainer, killed where it hurts."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.trainer import narrow
from tests.trainer.jobs import Job
from tests.trainer.supervised import command
from tests.waiting import until_now
from trainer.contract import checkpoints
from trainer.contract.job_directory import JobState

pytestmark = [
    pytest.mark.xdist_group("torch"),
    pytest.mark.slow,
    pytest.mark.usefixtures("warm_trainers"),
]
SETTINGS = {
    "peft": None,  # all weights: a save takes long enough to be killed in
    "gradient_accumulation_steps": 2,
    "max_steps": 30,
    "save_steps": 2,
    "data": {"eval_fraction": 0.2},
    "eval_steps": 10,
}


def start(job: Job, **environment: str) -> None:
    subprocess.run(
        command(job.directory.root, "--detach"),
        env=os.environ | environment,
        check=True,
        stdout=subprocess.DEVNULL,
    )


def ended(job: Job) -> JobState:
    until_now(lambda: job.status.finished_at is not None and not job.directory.is_alive())
    return job.status.state


def reached(job: Job, attempt: int, step: int) -> bool:
    status = job.status
    return (status.attempt, status.state) == (attempt, JobState.RUNNING) and status.step >= step


def kill_mid_step(job: Job, attempt: int) -> None:
    # With a checkpoint to go on from: on a busy machine it may come later than the next steps.
    saved = job.directory.checkpoints
    until_now(lambda: reached(job, attempt, 3) and any(saved.glob("checkpoint-*")))
    os.kill(job.status.trainer_pid, signal.SIGKILL)


def kill_mid_save(job: Job, attempt: int) -> Path:
    """Kill the trainer with a checkpoint half written, and return what is left of it."""
    until_now(lambda: reached(job, attempt, 0))
    trainer = job.status.trainer_pid
    staging = job.directory.checkpoints / checkpoints.STAGING
    half: list[Path] = []

    def caught_saving() -> bool:
        if not any(staging.glob("*/*")):
            return False
        os.kill(trainer, signal.SIGSTOP)  # then look again: it may just have finished
        half[:] = staging.glob("*/*")
        os.kill(trainer, signal.SIGKILL if half else signal.SIGCONT)
        return bool(half)

    until_now(caught_saving)
    return half[0].parent


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, make_job) -> Job:
    job = make_job(tmp_path_factory.mktemp("uninterrupted") / "job", **SETTINGS)
    assert job.train() is JobState.COMPLETED
    return job


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory, make_job) -> Job:
    """One job whose trainer was killed in a step, and again while it saved; it ended well."""
    job = make_job(tmp_path_factory.mktemp("killed") / "job", **SETTINGS)
    start(job)
    kill_mid_step(job, attempt=1)
    kill_mid_save(job, attempt=2)
    assert ended(job) is JobState.COMPLETED, job.directory.log.read_text()
    return job


def test_a_trainer_that_was_killed_is_started_again_each_time(killed):
    assert (killed.status.state, killed.status.restarts) == (JobState.COMPLETED, 2)
    assert killed.status.step == killed.status.total_steps == SETTINGS["max_steps"]


def test_after_kills_every_number_is_what_it_would_have_been(killed, uninterrupted):
    assert killed.curve == uninterrupted.curve


def test_after_kills_every_weight_is_what_it_would_have_been(killed, uninterrupted):
    assert killed.weights == uninterrupted.weights


def test_after_a_kill_it_goes_on_from_a_whole_checkpoint(killed):
    log = killed.directory.log.read_text()

    assert log.count("\nresuming from checkpoint-") == 2
    assert "passed over" not in log


def test_the_log_is_for_people(killed):
    log = killed.directory.log.read_text()

    assert "\r" not in log  # no progress bars
    assert "Warning" not in log
    assert log.endswith("\ncompleted\n")


NARROW = """
import dataclasses, sys, trainer.training.train
from tests.trainer import narrow
from trainer.config.methods import METHODS
METHODS["sft"] = dataclasses.replace(METHODS["sft"], module=narrow.__name__)
sys.exit(trainer.training.train.main(sys.argv[1]))
"""


IN_HALVES = pytest.param(True, marks=pytest.mark.thorough, id="in halves")


@pytest.fixture(scope="module", params=[pytest.param(False, id="whole"), IN_HALVES])
def stopped(request, tmp_path_factory: pytest.TempPathFactory, make_job) -> Job:
    """One job that got SIGTERM; its whole batch may have been too large for its memory before."""
    job = make_job(tmp_path_factory.mktemp("stopped") / "job", **SETTINGS)
    if request.param:
        trainer = [sys.executable, "-c", NARROW, str(job.directory.root)]
        job.write(config=job.config, command=trainer)
    start(job, **({narrow.LIMIT: "1"} if request.param else {}))
    attempt = 2 if request.param else 1
    until_now(lambda: reached(job, attempt, 3) or job.status.finished_at is not None)
    os.kill(job.status.pid, signal.SIGTERM)
    assert ended(job) is JobState.STOPPED
    return job


@pytest.mark.parametrize("stopped", [IN_HALVES], indirect=True)
def test_a_batch_that_is_too_large_is_halved(stopped):
    assert (stopped.status.batch_divisor, stopped.status.restarts) == (2, 0)
    assert (
        "\nrestart with batch size 1 instead of 2 after OutOfMemory: Memory ran out "
        in stopped.directory.log.read_text()
    )


def test_a_signal_saves_and_stops(stopped):
    assert (stopped.status.state, stopped.status.exit_code) == (JobState.STOPPED, 0)
    assert stopped.status.step < SETTINGS["max_steps"]
    newest, _ = checkpoints.newest_valid(stopped.directory.checkpoints)
    assert newest == stopped.checkpoint(stopped.status.step)


def test_a_stopped_job_goes_on_later_and_with_a_batch_that_is_no_larger(stopped, uninterrupted):
    assert stopped.train() is JobState.COMPLETED

    losses = [[r.get("train_loss") for r in job.curve.values()] for job in (uninterrupted, stopped)]
    assert len(losses[0]) == SETTINGS["max_steps"] + 1
    assert losses[0][1:] == pytest.approx(losses[1][1:], abs=1e-5)
