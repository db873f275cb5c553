"""Interrupted and resumed: every number and every weight is what it would have been."""

import os
import pickle
import shutil
from pathlib import Path

import pytest

from tests.trainer.jobs import Job, PausesAfter, flip_a_byte
from trainer.contract import checkpoints
from trainer.contract.errors import IntegrityError
from trainer.contract.job_directory import Desired, JobState
from trainer.contract.manifest import MANIFEST, write_manifest

pytestmark = pytest.mark.xdist_group("torch")
WEIGHTS = "adapter_model.safetensors"
SETTINGS = {
    "peft": {"r": 4, "lora_alpha": 8, "lora_dropout": 0.1},
    "gradient_accumulation_steps": 2,
    "data": {"max_rows": 25, "eval_fraction": 0.2},  # 20 rows to train on: epochs of 5 steps
    "max_steps": 8,
    "save_steps": 3,
    "eval_steps": 4,
    "learning_rate": 0.01,
}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, make_job) -> Job:
    job = make_job(tmp_path_factory.mktemp("uninterrupted") / "job", **SETTINGS)
    assert job.train() is JobState.COMPLETED
    assert sorted(job.curve) == list(range(9))
    return job


@pytest.fixture(scope="module")
def paused_at_6(tmp_path_factory: pytest.TempPathFactory, make_job) -> Path:
    job = make_job(tmp_path_factory.mktemp("paused") / "job", **SETTINGS)
    pause(job, after=6)
    assert job.saved_steps == [6, 3]
    return job.directory.root


@pytest.fixture
def at_6(tmp_path: Path, paused_at_6: Path, make_job) -> Job:
    """A job that was paused after step 6, with checkpoints of the steps 6 and 3."""
    shutil.copytree(paused_at_6, tmp_path / "job")
    return make_job(tmp_path / "job", **SETTINGS)


def pause(job: Job, after: int) -> None:
    assert job.train(PausesAfter(job.directory, after)) is JobState.PAUSED
    assert not job.directory.output.exists()
    job.directory.request(Desired.RUN)


def assert_ends_like(uninterrupted: Job, job: Job) -> None:
    assert job.train() is JobState.COMPLETED
    assert job.curve == uninterrupted.curve
    assert job.weights == uninterrupted.weights


# 1: the first step. 3: where it saves anyway. 4: where it evaluates. 5: the end of an epoch.
# 7: within an epoch. 8: the last step.
@pytest.mark.parametrize(
    "step", [3, *(pytest.param(step, marks=pytest.mark.thorough) for step in (1, 4, 5, 7, 8))]
)
def test_a_paused_job_goes_on_as_if_nothing_had_been(tmp_path, make_job, uninterrupted, step):
    job = make_job(tmp_path / "job", **SETTINGS)

    pause(job, after=step)

    assert job.saved_steps[0] == step
    assert_ends_like(uninterrupted, job)


@pytest.mark.thorough
def test_a_job_paused_after_every_other_step_is_the_same(tmp_path, make_job, uninterrupted):
    job = make_job(tmp_path / "job", **SETTINGS)

    for _ in range(3):
        pause(job, after=2)

    assert_ends_like(uninterrupted, job)


def test_a_request_before_the_first_step_makes_no_step(tmp_path, make_job):
    job = make_job(tmp_path / "job", **SETTINGS)
    job.directory.request(Desired.STOP)

    assert job.train() is JobState.STOPPED
    assert (job.saved_steps, job.metrics) == ([], {})


def test_a_checkpoint_with_a_flipped_bit_is_passed_over(at_6, uninterrupted, capfd):
    damaged = at_6.checkpoint(6) / WEIGHTS
    flip_a_byte(damaged)

    assert_ends_like(uninterrupted, at_6)

    printed = capfd.readouterr().out
    assert f"warning: skipped a checkpoint: {damaged} does not have the SHA-256" in printed
    assert "resuming from checkpoint-3\n" in printed
    passed_over, resumed = [
        event for event in at_6.events if event.kind in {"checkpoint_passed_over", "resumed"}
    ]
    assert passed_over.facts == {"checkpoint": "checkpoint-6"}
    assert f"{damaged} does not have the SHA-256" in passed_over.message
    assert (resumed.kind, resumed.step) == ("resumed", 3)
    assert [e.step for e in at_6.events if e.kind == "saved"][-1] == max(at_6.saved_steps)


@pytest.mark.thorough
def test_a_checkpoint_without_a_manifest_is_passed_over(at_6, uninterrupted, capfd):
    (at_6.checkpoint(6) / MANIFEST).unlink()

    assert_ends_like(uninterrupted, at_6)

    assert "resuming from checkpoint-3\n" in capfd.readouterr().out


@pytest.mark.thorough
def test_what_a_crash_left_half_saved_is_not_resumed_from(at_6, uninterrupted, capfd):
    half = at_6.directory.checkpoints / checkpoints.STAGING / "checkpoint-9"
    half.mkdir(parents=True)
    (half / WEIGHTS).write_bytes((at_6.checkpoint(6) / WEIGHTS).read_bytes()[:1000])

    assert_ends_like(uninterrupted, at_6)

    assert "resuming from checkpoint-6\n" in capfd.readouterr().out
    assert not half.exists()


@pytest.mark.thorough
def test_without_any_good_checkpoint_it_begins_again(at_6, uninterrupted, capfd):
    for step in (3, 6):
        flip_a_byte(at_6.checkpoint(step) / "optimizer.pt")

    assert_ends_like(uninterrupted, at_6)

    printed = capfd.readouterr().out
    assert printed.count("warning: skipped a checkpoint: ") == 2
    assert "resuming" not in printed


@pytest.mark.thorough
def test_a_torn_line_of_metrics_does_not_swallow_the_next(at_6, uninterrupted):
    with at_6.directory.metrics.open("a") as stream:
        stream.write('{"step": 7, "train_lo')

    at_6.train()

    lines = at_6.directory.metrics.read_text().splitlines()
    assert lines.count('{"step": 7, "train_lo') == 1
    at_6.directory.metrics.write_text("\n".join(line for line in lines if line.endswith("}")))
    assert at_6.curve == uninterrupted.curve


def test_a_best_checkpoint_is_remembered_over_a_pause(tmp_path, make_job):
    settings = SETTINGS | {
        "data": {"max_rows": 10, "eval_fraction": 0.4},
        "eval_steps": 1,
        "early_stopping_patience": 9,
        "learning_rate": 0.05,
    }
    straight, paused = (make_job(tmp_path / name, **settings) for name in ("straight", "paused"))
    straight.train()
    losses = straight.evaluations
    best = min((n for n in losses if n), key=losses.__getitem__)
    assert best < 6, "the best is not left behind: this test shows nothing"

    pause(paused, after=best + 1)
    paused.train()

    assert (paused.curve, paused.weights) == (straight.curve, straight.weights)


class Evil:
    """What a pickle can do: run any command when it is loaded."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self):
        return os.system, (f"touch {self.proof}",)


@pytest.mark.parametrize(
    "name",
    [
        "optimizer.pt",
        pytest.param("scheduler.pt", marks=pytest.mark.thorough),
        pytest.param("rng_state.pth", marks=pytest.mark.thorough),
    ],
)
def test_code_in_a_checkpoint_is_refused_and_not_run(at_6, tmp_path, name):
    import torch

    torch.save({"state": Evil(tmp_path / "proof")}, at_6.checkpoint(6) / name)
    write_manifest(at_6.checkpoint(6), step=6)  # whoever wrote this knows the format

    with pytest.raises(IntegrityError, match="checkpoint-6 holds something other than tensors"):
        at_6.train()

    assert not (tmp_path / "proof").exists()


def test_a_bare_pickle_in_a_checkpoint_ends_the_job_with_a_sentence(at_6, tmp_path, capfd):
    (at_6.checkpoint(6) / "optimizer.pt").write_bytes(pickle.dumps(Evil(tmp_path / "proof"), 2))
    write_manifest(at_6.checkpoint(6), step=6)

    assert at_6.main() == 1

    assert not (tmp_path / "proof").exists()
    assert at_6.status.error["class"] == "IntegrityError"
    assert "remove it and run the job again" in at_6.status.error["suggestion"]
    assert "error IntegrityError: " in capfd.readouterr().out
