"""dpo, orpo, kto and reward: what they optimise gets better, and they resume exactly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.jobs import Job, PausesAfter
from trainer.contract.job_directory import Desired, JobState

pytestmark = pytest.mark.xdist_group("torch")
EXAMPLES = Path(__file__).parents[3] / "examples" / "methods"
MARGIN = {
    "dpo": "eval_rewards/margins",
    "kto": "eval_rewards/margins",
    "orpo": "eval_log_odds_chosen",
    "reward": "eval_margin",
}
"""How much better a good answer is than a bad one, as each method has it."""
METHODS = list(MARGIN)
"""One with pairs, one without; the others differ by their loss alone."""


def settings(method: str) -> dict[str, Any]:
    name = "judged" if method == "kto" else "preferences"
    return {
        "method": method,
        "data": {"path": str(EXAMPLES / f"{name}.jsonl"), "max_rows": 40, "eval_fraction": 0.2},
        "peft": {"r": 8, "lora_alpha": 16, "lora_dropout": 0.1},
        "max_steps": 10,
        "save_steps": 4,
        "eval_steps": 10,
        "max_length": 96,
        "per_device_train_batch_size": 4,
        "learning_rate": 0.005,
        "beta": 1.0 if method == "orpo" else None,
    }


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, make_job) -> dict[str, Job]:
    """Each method's job, at its end; trained when it is first asked for."""

    class Trained(dict[str, Job]):
        def __missing__(self, method: str) -> Job:
            root = tmp_path_factory.mktemp(method) / "job"
            self[method] = make_job(root, **settings(method))
            assert self[method].train() is JobState.COMPLETED
            return self[method]

    return Trained()


@pytest.mark.parametrize(
    "method", [m if m == "dpo" else pytest.param(m, marks=pytest.mark.thorough) for m in METHODS]
)
def test_a_good_answer_becomes_better_than_a_bad_one(trained, method):
    evaluations = [r for r in trained[method].metrics.values() if "eval_loss" in r]

    first, last = evaluations[0], evaluations[-1]
    assert last[MARGIN[method]] > first[MARGIN[method]] + 0.1
    assert last["eval_loss"] < first["eval_loss"]


@pytest.mark.thorough
def test_dpo_learns_by_another_loss_from_pairs_that_begin_with_their_prompt(tmp_path, make_job):
    pairs = map(json.loads, (EXAMPLES / "preferences.jsonl").read_text().splitlines())
    data = {**settings("dpo")["data"], "path": str(tmp_path / "pairs.jsonl")}
    rows = [
        {name: pair["prompt"] + pair[name] for name in ("chosen", "rejected")} for pair in pairs
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    job = make_job(
        tmp_path / "job",
        **{**settings("dpo"), "data": data, "beta": 0.5, "loss_type": "ipo"},
    )

    assert job.train() is JobState.COMPLETED

    first, last = (job.metrics[step] for step in (0, 10))
    assert first["eval_loss"] == pytest.approx(1.0)  # 1 / (2 beta), squared: nothing is learnt yet
    assert last["eval_loss"] < 0.9
    assert last["eval_rewards/margins"] > first["eval_rewards/margins"] + 0.1


@pytest.mark.parametrize("method", [pytest.param(m, marks=pytest.mark.thorough) for m in METHODS])
def test_a_paused_job_goes_on_as_if_nothing_had_been(tmp_path, make_job, trained, method):
    job = make_job(tmp_path / "job", **settings(method))
    assert job.train(PausesAfter(job.directory, 6)) is JobState.PAUSED
    job.directory.request(Desired.RUN)

    assert job.train() is JobState.COMPLETED

    assert job.curve == trained[method].curve
    assert job.weights == trained[method].weights


@pytest.mark.parametrize(
    "method", [pytest.param(m, marks=pytest.mark.thorough) if m == "kto" else m for m in METHODS]
)
def test_the_output_is_one_adapter(trained, method):
    output = trained[method].directory.output

    assert not [path for path in output.iterdir() if path.is_dir()]
    kind = "SequenceClassification" if method == "reward" else "CausalLM"
    head = ", num_labels=1" if method == "reward" else ""
    assert (
        f'AutoPeftModelFor{kind}.from_pretrained("."{head})' in (output / "README.md").read_text()
    )


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")
def test_a_reward_model_scores_good_answers_higher(trained):
    import torch
    from peft import AutoPeftModelForSequenceClassification
    from transformers import AutoTokenizer

    output = trained["reward"].directory.output
    tokenizer = AutoTokenizer.from_pretrained(output)
    model = AutoPeftModelForSequenceClassification.from_pretrained(output, num_labels=1).eval()
    question = {"role": "user", "content": "What is LoRA?"}
    answers = "LoRA trains small adapters and leaves the model as it is.", "That depends."

    def score(answer: str) -> float:
        chat = [question, {"role": "assistant", "content": answer}]
        text = tokenizer.apply_chat_template(chat, tokenize=False)
        with torch.no_grad():
            return model(**tokenizer(text, return_tensors="pt", add_special_tokens=False)).logits

    assert score(answers[0]) > score(answers[1])


@pytest.mark.thorough
def test_a_reference_that_moves_resumes_from_where_it_was(tmp_path, make_job):
    moving = {"sync_ref_model": True, "ref_model_sync_steps": 1, "ref_model_mixup_alpha": 0.5}
    given = {**settings("dpo"), "peft": None, "arguments": moving, "max_steps": 5}
    whole, paused = (make_job(tmp_path / name, **given) for name in ("whole", "paused"))
    assert whole.train() is JobState.COMPLETED
    assert paused.train(PausesAfter(paused.directory, 3)) is JobState.PAUSED
    paused.directory.request(Desired.RUN)

    assert paused.train() is JobState.COMPLETED

    assert paused.curve == whole.curve
    assert paused.weights == whole.weights
