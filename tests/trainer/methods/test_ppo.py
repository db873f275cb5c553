"""PPO: what it learns, logs and leaves behind, and its arithmetic."""

import pytest

from tests.trainer.jobs import TINY_LLAMA
from trainer.contract.job_directory import JobState

pytestmark = pytest.mark.xdist_group("torch")

SHORT = """\
def short(completions, **columns):
    return [-len(answer[0]["content"]) / 10 for answer in completions]
"""


@pytest.fixture(scope="module")
def learnt(tmp_path_factory, make_online):
    folder = tmp_path_factory.mktemp("ppo")
    (folder / "rewards.py").write_text(SHORT)
    job = make_online(
        folder / "job",
        method="ppo",
        model=str(TINY_LLAMA),
        data={"path": str(TINY_LLAMA.parent / "methods" / "prompts.jsonl")},
        reward_functions=[f"{folder / 'rewards.py'}:short"],
        per_device_train_batch_size=16,
        max_completion_length=12,
        max_steps=32,
        learning_rate=0.003,
        lr_scheduler_type="constant",
        beta=0.01,
    )
    assert job.train() is JobState.COMPLETED
    return job


@pytest.mark.thorough
def test_the_mean_reward_rises(learnt):
    rewards = [record["reward"] for record in learnt.metrics.values() if "reward" in record]

    assert len(rewards) == 8  # four passes over each rollout
    assert rewards[-1] > 0.6 * rewards[0], "answers are not clearly shorter"


@pytest.mark.thorough
def test_it_logs_how_far_it_went_and_how_well(learnt):
    first, last = learnt.metrics[1], learnt.metrics[29]

    assert {"reward", "kl", "policy_loss", "value_loss", "clipfrac", "entropy"} <= set(last)
    assert first["kl"] == pytest.approx(0, abs=1e-4)
    assert last["kl"] > 0.1
    assert 1 <= last["completions/mean_length"] <= 12


@pytest.mark.thorough
def test_the_value_head_is_in_checkpoints_and_not_in_the_output(learnt):
    names = {path.name for path in learnt.checkpoint(32).iterdir()}

    assert {"value_head.safetensors", "rollouts.safetensors"} <= names
    assert not (learnt.directory.output / "value_head.safetensors").exists()


def test_all_weights_can_be_trained_and_held_out_prompts_answered(tmp_path, make_online):
    job = make_online(
        tmp_path / "job", method="ppo", peft=None, max_steps=2, data={"eval_fraction": 0.2}
    )

    assert job.train() is JobState.COMPLETED

    last = job.metrics[2]
    assert last["eval_loss"] == -last["eval_reward"]
    assert job.weights


@pytest.mark.thorough
def test_what_the_value_head_learns_does_not_shrink_the_steps_of_the_policy(tmp_path, make_online):
    jobs = [
        make_online(
            tmp_path / f"job-{weight}",
            method="ppo",
            max_steps=2,
            max_grad_norm=0.001,
            arguments={"vf_coef": weight},
        )
        for weight in (0.1, 1e6)
    ]
    assert [job.train() for job in jobs] == [JobState.COMPLETED] * 2

    norms = [job.metrics[2]["grad_norm"] for job in jobs]
    assert norms[0] == norms[1] > 0.001
    assert jobs[0].weights == jobs[1].weights


def test_a_reward_at_the_end_reaches_the_tokens_before_it():
    import torch

    from trainer.methods.ppo_parts.losses import advantages_of, token_rewards

    mask = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]])
    rewards = token_rewards(torch.tensor([8.0, 2.0]), torch.ones(2, 3), mask, beta=0.5)
    advantages, returns = advantages_of(rewards, torch.zeros(2, 3), mask, gamma=1.0, lam=0.5)

    assert rewards.tolist() == [[-0.5, -0.5, 7.5], [1.5, 0.0, 0.0]]
    assert advantages.tolist() == [[1.125, 3.25, 7.5], [1.5, 0.0, 0.0]]
    assert torch.equal(advantages, returns)


def test_a_ratio_beyond_the_clip_range_has_no_gradient():
    import torch

    from trainer.methods.ppo_parts.losses import policy_loss

    logps = torch.tensor([[0.5, 0.1]], requires_grad=True)
    ones = torch.ones(1, 2)

    loss, clipped = policy_loss(logps, torch.zeros(1, 2), ones, ones, 0.2)
    loss.backward()

    assert clipped.item() == 0.5
    assert logps.grad[0, 0] == 0
    assert logps.grad[0, 1] != 0


def test_an_answer_that_nobody_scores_is_neither_praised_nor_blamed():
    import torch

    from trainer.methods.ppo_parts.losses import summed

    nothing = float("nan")

    scores = summed(torch.tensor([[1.0, nothing, 3.0], [nothing, nothing, 1.0]]))

    assert scores.tolist() == [1.0, 2.5, 4.0]
    assert summed(torch.full((1, 2), nothing)).tolist() == [0.0, 0.0]
