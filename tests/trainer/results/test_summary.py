"""What a training was, in words: all that is known, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from trainer.config import TrainingConfig
from trainer.results.markdown import code, table
from trainer.results.summary import Summary, kind

METRICS = {
    "steps": 430.0,
    "train_loss_first": 8.03452,
    "train_loss": 0.255283,
    "eval_loss_first": 8.21134,
    "eval_loss": 0.342406,
    "eval_loss_best": 0.342406,
    "eval_loss_best_step": 430.0,
}
DATA = {"rows": 378, "train_rows": 340, "eval_rows": 38, "dropped": 0, "truncated": 7}
MADE = {"parameters": 1_770_624, "trainable_parameters": 655_360, "processes": 1}


def config(**training: Any) -> TrainingConfig:
    return TrainingConfig.model_validate(
        {"model": "/models/tiny-llama", "dataset": "/data/chats.jsonl", **training}
    )


def summary(
    metrics: dict[str, float] | None = None, made: dict[str, Any] | None = None, **training: Any
) -> Summary:
    return Summary(
        config=config(**training),
        metrics=METRICS | (metrics or {}),
        data=DATA | {"format": "messages"},
        made=MADE | (made or {}),
    )


def test_a_sentence_says_what_was_made_of_what():
    assert summary().headline() == (
        "LoRA adapter for `tiny-llama`, trained by supervised fine-tuning (sft) on `chats.jsonl`."
    )
    assert summary(peft=None, model="Qwen/Qwen3-0.6B").headline() == (
        "`Qwen/Qwen3-0.6B`, all weights trained by supervised fine-tuning (sft) on `chats.jsonl`."
    )


def test_settings_name_model_data_and_what_was_chosen():
    asked = summary(
        num_train_epochs=10,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        peft={"r": 64, "lora_alpha": 128, "lora_dropout": 0.05, "target_modules": ["q_proj"]},
        quantization={"load_in_4bit": True},
        max_length=256,
        seed=7,
        made={"processes": 3},
        arguments={"neftune_noise_alpha": 5},
    )

    assert asked.settings() == {
        "method": "supervised fine-tuning (sft)",
        "trained": "QLoRA adapter: 655,360 of 1,770,624 parameters",
        "base model": "`/models/tiny-llama`",
        "dataset": "`/data/chats.jsonl`",
        "rows": "340 trained on, 38 held out, 0 dropped, 7 cut at max length; format messages",
        "length": "430 steps, 10 epochs",
        "batch": "24 examples: 4 per device × 2 accumulated × 3 processes",
        "learning rate": "0.0002, cosine schedule, warmup 3 % of the steps",
        "LoRA": "r 64, alpha 128, dropout 0.05; q_proj",
        "quantization": "4 bits (nf4, double quantization)",
        "max length": "256 tokens",
        "optimizer": "adamw_torch_fused",
        "further arguments": "`neftune_noise_alpha: 5`",
        "seed": "7",
    }


@pytest.mark.parametrize(
    ("training", "rate"),
    [
        ({}, "0.0002"),
        ({"peft": None}, "2e-05"),
        ({"method": "dpo"}, "1e-05"),
        ({"peft": {"peft_type": "prompt_tuning"}}, "0.03"),
        ({"learning_rate": 0.003}, "0.003"),
    ],
)
def test_the_learning_rate_is_the_one_that_was_used(training, rate):
    assert summary(**training).settings()["learning rate"].startswith(f"{rate}, cosine")


@pytest.mark.parametrize(
    ("peft", "words"),
    [
        ({"use_dora": True}, "DoRA adapter"),
        ({"use_rslora": True}, "rank-stabilised LoRA adapter"),
        ({"peft_type": "prompt_tuning"}, "soft prompt of 20 tokens (prompt tuning)"),
        (None, "all weights"),
    ],
)
def test_the_kind_of_adapter_is_named(peft, words):
    assert kind(config(peft=peft)) == words


def test_results_are_before_and_after_with_their_direction():
    assert summary().results() == {
        "eval_loss (lower is better)": "8.211 → 0.3424",
        "perplexity (lower is better)": "3,682 → 1.408",
        "train_loss (lower is better)": "8.035 → 0.2553",
    }


def test_an_evaluation_after_some_steps_is_not_called_before():
    results = summary(eval_on_start=False).results()

    assert results["eval_loss (lower is better)"] == "0.3424"


def test_a_better_evaluation_on_the_way_is_named():
    asked = summary({"eval_loss_best": 0.3, "eval_loss_best_step": 387.0})

    assert asked.results()["best eval_loss"] == "0.3 at step 387"


def test_of_preferences_margins_and_accuracies_are_shown():
    metrics = {"rewards/margins_first": 0.0, "rewards/margins": 8.318, "rewards/accuracies": 1.0}

    results = summary(metrics, method="dpo").results()

    assert results["rewards/margins (higher is better)"] == "0 → 8.318"
    assert results["rewards/accuracies (higher is better)"] == "1"
    assert "perplexity (lower is better)" not in results


def test_of_answers_the_reward_comes_first_and_the_loss_has_no_direction():
    asked = summary(
        {"reward_first": -0.5, "reward": 0.75},
        method="grpo",
        reward_functions=["exact_match"],
        num_generations=4,
        beta=0.02,
    )

    assert next(iter(asked.results().items())) == ("reward (higher is better)", "-0.5 → 0.75")
    assert asked.results()["train_loss"] == "8.035 → 0.2553"
    settings = asked.settings()
    assert settings["answers"] == "4 per prompt, up to 256 tokens, temperature 1"
    assert settings["scored by"] == "`exact_match`"
    assert settings["beta"] == "0.02"


def test_warnings_name_what_a_person_should_know():
    asked = Summary(
        config=config(max_length=64),
        metrics={"eval_loss_first": 2.0, "eval_loss": 2.5},
        data={
            "rows": 1378,
            "dropped": 12,
            "why": {"nothing to learn within max_length": 12},
            "chats": 1366,
            "plain_template": True,
            "unread": {"id": 1366},
        },
        made={"batch_divisor": 4, "learning_rate_factor": 0.5},
    )

    assert asked.warnings() == [
        "12 of 1,378 rows were dropped with max_length = 64 tokens "
        "(12: nothing to learn within max_length).",
        "The model has no chat template: chats are rendered as plain ChatML, which is saved with "
        "the result.",
        "Not read by anything: id (1,366 rows).",
        "Memory ran out: each batch was split into 4 parts. The effective batch stayed the same.",
        "The loss diverged: training went back to a checkpoint and continued with 0.5 of the "
        "learning rate.",
        "The evaluation loss rose from 2 to 2.5: on the held-out rows the result is worse than "
        "the base model.",
    ]
    assert summary().warnings() == []


def test_of_a_command_only_what_it_reads_is_shown():
    command = {"run": ["python", "my.py", "--seed", "{seed}"]}
    asked = TrainingConfig.model_validate(
        {"trainer": "command", "command": command, "seed": 3, "dataset": "d.jsonl"}
    )

    found = Summary(config=asked, metrics={"train_loss_first": 2.0, "train_loss": 1.0})

    assert found.headline() == "Trained by a command of your own on `d.jsonl`."
    assert found.settings() == {
        "command": "`python my.py --seed {seed}`",
        "dataset": "`d.jsonl`",
        "seed": "3",
    }
    assert found.results() == {"train_loss (lower is better)": "2 → 1"}


def test_of_another_project_only_settings_that_reach_it_are_shown():
    asked = config(trainer="torchtune", peft={"r": 8})

    settings = Summary(config=asked, metrics={"eval_loss_first": 3.0, "eval_loss": 2.0}).settings()

    assert settings["trainer"] == "torchtune"
    assert settings["LoRA"] == "r 8, alpha 32; all linear layers"
    assert "rows" not in settings
    assert "precision" not in settings


def test_of_another_project_the_first_evaluation_is_not_called_before():
    asked = Summary(
        config=config(trainer="llama-factory"), metrics={"eval_loss_first": 3.0, "eval_loss": 2.0}
    )

    assert asked.results() == {"eval_loss (lower is better)": "2"}
    assert asked.headline() == (
        "LoRA adapter for `tiny-llama`, trained by supervised fine-tuning (sft) with llama-factory "
        "on `chats.jsonl`."
    )


@pytest.mark.parametrize("made", [{"batch_divisor": 0}, {"processes": -3.5}, {"parameters": 1.5}])
def test_counts_of_a_machine_that_mean_nothing_do_no_harm(made):
    assert summary(made=made).settings()["batch"].startswith("8 examples")


@pytest.mark.parametrize(
    ("text", "shown"),
    [("a", "`a`"), ("a`b", "``a`b``"), ("`a", "`` `a ``"), ("a\nb", "`a b`"), ("", "")],
)
def test_any_text_can_be_shown_as_code(text, shown):
    assert code(text) == shown


def test_a_table_has_a_header_and_keeps_its_columns():
    assert table("name", "value", {"a|b": "c\n d"}) == [
        "| name | value |",
        "| --- | --- |",
        "| a\\|b | c d |",
    ]
