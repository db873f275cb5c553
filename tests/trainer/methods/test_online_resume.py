"""Methods that buffer their own answers, interrupted: every number is what it would have been."""

import shutil

import pytest

from tests.trainer.jobs import EXACT, PausesAfter
from trainer.contract.job_directory import Desired, JobState

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


# rloo differs from grpo by its loss alone; ppo's steps are looked at by test_ppo, too.
@pytest.fixture(
    scope="module",
    params=[m if m == "grpo" else pytest.param(m, marks=pytest.mark.thorough) for m in SETTINGS],
)
def uninterrupted(request, tmp_path_factory, make_online):
    settings = {"method": request.param, "max_steps": STEPS, **SETTINGS[request.param]}
    job = make_online(tmp_path_factory.mktemp(request.param) / "job", **settings)
    assert job.train() is JobState.COMPLETED
    losses = {record["train_loss"] for record in job.curve.values()}
    assert len(losses) > STEPS // 2, "the steps are all the same: this shows nothing"
    return job


# 6 and 2: in mid-buffer. 13: in mid-buffer, in the second epoch. 4: between two rollouts.
@pytest.mark.parametrize(
    "steps",
    [
        (6, 7),
        pytest.param((2,), marks=pytest.mark.thorough),
        pytest.param((4,), marks=pytest.mark.thorough),
    ],
)
def test_rollouts_survive_a_pause(tmp_path, make_online, uninterrupted, steps):
    job = make_online(tmp_path / "job", **uninterrupted.config)

    for count in steps:
        assert job.train(PausesAfter(job.directory, count)) is JobState.PAUSED
        job.directory.request(Desired.RUN)

    assert job.train() is JobState.COMPLETED
    assert curve(job) == curve(uninterrupted)
    assert job.weights == uninterrupted.weights
    shutil.rmtree(tmp_path / "job")


@pytest.mark.thorough
def test_rollouts_fit_a_batch_that_memory_halved(tmp_path, make_online):
    settings = {**SETTINGS["ppo"], "method": "ppo", "max_steps": 8, "lr_scheduler_type": "constant"}
    straight, halved = (make_online(tmp_path / name, **settings) for name in ("a", "b"))
    straight.train()

    halved.train(PausesAfter(halved.directory, 5))
    halved.directory.request(Desired.RUN)
    halved.directory.update_status(batch_divisor=2)
    halved.train()

    losses = [[job.metrics[n]["train_loss"] for n in (6, 7, 8)] for job in (straight, halved)]
    # The mean of a batch's tokens is taken by halves, and these are of different lengths.
    assert losses[0] == pytest.approx(losses[1], abs=0.2)
    assert halved.status.batch_divisor == 2


@pytest.mark.thorough
@pytest.mark.parametrize(
    "method",
    ["grpo", *(pytest.param(name, marks=pytest.mark.thorough) for name in ("rloo", "ppo"))],
)
def test_answers_that_do_not_fit_at_once_are_generated_in_parts(
    tmp_path, make_online, monkeypatch, capfd, method
):
    import torch
    from transformers import GenerationMixin

    # Nearly always the likeliest token: what is drawn depends on how many are drawn at once.
    settings = {**SETTINGS[method], "method": method, "max_steps": 2, "temperature": 0.001}
    whole, parted = (make_online(tmp_path / name, **settings) for name in ("whole", "parted"))
    whole.train()
    generate = GenerationMixin.generate

    def narrow(self, *args, **kwargs):
        if len(kwargs["input_ids"]) > 3:  # as many as are proven before the first step
            raise torch.OutOfMemoryError("CUDA error: out of memory")
        return generate(self, *args, **kwargs)

    monkeypatch.setattr(GenerationMixin, "generate", narrow)
    assert parted.train() is JobState.COMPLETED

    printed = capfd.readouterr().out
    assert "memory ran out for the answers: again in 2 parts" in printed
    assert printed.count("memory ran out") < 4  # the number of parts is remembered
    fallback = next(event for event in parted.events if event.kind == "fallback")
    assert fallback.message == "memory ran out for the answers: again in 2 parts"
    for step, record in curve(whole).items():
        numbers = {name: value for name, value in record.items() if value is not None}
        assert {name: curve(parted)[step][name] for name in numbers} == pytest.approx(
            numbers, rel=0.02, abs=0.02
        )
