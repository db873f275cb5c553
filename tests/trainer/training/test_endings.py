"""How a run comes to its end: with the right weights, once, whatever came between."""

import pytest

from tests.trainer.jobs import digest, flip_a_byte
from trainer.contract.errors import ConfigError
from trainer.contract.job_directory import JobState
from trainer.contract.manifest import MANIFEST, verify

pytestmark = pytest.mark.xdist_group("torch")


def test_a_job_killed_before_its_output_was_written_trains_no_further(tmp_path, make_job):
    job = make_job(tmp_path / "job", max_steps=3, save_steps=3)
    job.train()
    weights, curve = job.weights, job.curve
    (job.directory.output / MANIFEST).unlink()

    assert job.train() is JobState.COMPLETED

    assert (job.weights, job.curve) == (weights, curve)


@pytest.mark.thorough
def test_a_damaged_output_is_made_again(tmp_path, make_job):
    job = make_job(tmp_path / "job", max_steps=2)
    job.train()
    weights = job.weights
    flip_a_byte(job.directory.output / "adapter_model.safetensors")

    assert job.train() is JobState.COMPLETED
    assert job.weights == weights
    verify(job.directory.output)


@pytest.mark.thorough
def test_without_a_seed_of_its_own_a_run_is_the_same_again(tmp_path, make_job):
    first, second = (make_job(tmp_path / name, max_steps=2) for name in "ab")
    third = make_job(tmp_path / "c", max_steps=2, seed=1)
    for job in (first, second, third):
        job.train()

    assert (first.curve, first.weights) == (second.curve, second.weights)
    assert first.curve != third.curve


def test_early_stopping_stops_and_keeps_the_best(tmp_path, make_job):
    job = make_job(
        tmp_path / "job",
        max_steps=40,
        data={"max_rows": 10, "eval_fraction": 0.4},
        eval_steps=1,
        early_stopping_patience=2,
        save_total_limit=1,
        learning_rate=0.05,
    )

    assert job.train() is JobState.COMPLETED

    losses = job.evaluations
    best = min((n for n in losses if n), key=losses.__getitem__)
    last = max(losses)
    assert (last, last < 40) == (best + 2, True)
    assert job.saved_steps == [last, best]
    assert job.weights == digest(job.checkpoint(best)) != digest(job.checkpoint(last))


@pytest.mark.thorough
def test_the_model_before_training_is_not_the_best_checkpoint(tmp_path, make_job):
    job = make_job(
        tmp_path / "job",
        data={"eval_fraction": 0.2},
        eval_steps=1,
        early_stopping_patience=2,
        early_stopping_threshold=5,  # nothing gets better by so much
    )

    assert job.train() is JobState.COMPLETED

    assert sorted(job.evaluations) == [0, 1, 2, 3]
    assert job.weights == digest(job.checkpoint(1))


def test_an_unknown_layer_is_refused(tmp_path, make_job):
    job = make_job(tmp_path / "job", peft={"target_modules": ["no_such_layer"]})

    with pytest.raises(ConfigError, match=r"training\.peft\.target_modules: .*no_such_layer"):
        job.train()
