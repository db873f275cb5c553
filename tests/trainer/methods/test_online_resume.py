"""Methods that buffer their own answers, interrupted: every number is what it would have been."""

import shutil

import pytest
from jobs import EXACT, PausesAfter

from trainer.job_directory import Desired, JobState

pytestmark = [
    pytest.mark.xdist_group("torch"),
    # PEFT 0.21 still reads old names of transformers'; the trainer's process says nothing of it.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing:FutureWarning"),
]
COMPARED = (*EXACT, "reward", "kl", "policy_loss", "completions/mean_length")
SHARED = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "save_steps": 100}
BUFFERED = {"steps_per_generation": 4, "num_iterations": 2}  # one rollout for four steps
SETTINGS = {
    "grpo": {**SHARED, "num_generations": 2, "beta": 0.1, "arguments": BUFFERED},
    "rloo": {**SHARED, "num_generations": 2, "arguments": BUFFERED},
    "ppo": {**SHARED, "arguments": {"num_mini_batches": 2, "num_ppo_epochs": 2}},
}
STEPS = 14  # an epoch of grpo and rloo, three rollouts of four prompts, has twelve


def curve(job):
    return {n: {key: r.get(key) for key in COMPARED} for n, r in job.metrics.items()}


@pytest.fixture(scope="module", params=SETTINGS)
def uninterrupted(request, tmp_path_factory, make_online):
    settings = {"method": request.param, "max_steps": STEPS, **SETTINGS[request.param]}
    job = make_online(tmp_path_factory.mktemp(request.param) / "job", **settings)
    assert job.train() is JobState.COMPLETED
    losses = {record["train_loss"] for record in job.curve.values()}
    assert len(losses) > STEPS // 2, "the steps are all the same: this shows nothing"
    return job


# 2 and 6: in mid-buffer. 4: between two rollouts. 13: in mid-buffer, in the second epoch.
@pytest.mark.parametrize("steps", [(2,), (4,), (6, 7)])
def test_rollouts_survive_a_pause(tmp_path, make_online, uninterrupted, steps):
    job = make_online(tmp_path / "job", **uninterrupted.config)

    for count in steps:
        assert job.train(PausesAfter(job.directory, count)) is JobState.PAUSED
        job.directory.request(Desired.RUN)

    assert job.train() is JobState.COMPLETED
    assert curve(job) == curve(uninterrupted)
    assert job.weights == uninterrupted.weights
    shutil.rmtree(tmp_path / "job")
