"""Presets write the other project's settings as they lie in golden/, and nothing is guessed twice."""

from __future__ import annotations

import json
import os
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.trainer.presets.preset_configs import CONFIGS, IN_4BIT, IN_8BIT, config_of
from trainer.command.plan import make_plan
from trainer.command.reading import MetricsReader
from trainer.config import TrainingConfig
from trainer.contract.errors import ConfigError, DataError
from trainer.contract.job_directory import JobDirectory
from trainer.contract.metrics import read_metrics
from trainer.presets import PRESETS, as_command, check_foreign_settings, translate
from trainer.presets.preset import Start

GOLDEN = Path(__file__).parent / "golden"
ROOT = "/job"
SIZES = {
    "vocab_size": 2048,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_theta": 1e6},
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models, as far as a preset looks at them."""
    folder = tmp_path_factory.mktemp("models")
    for kind in ("qwen2", "llama"):
        (folder / kind).mkdir()
        (folder / kind / "config.json").write_text(json.dumps({"model_type": kind, **SIZES}))
        (folder / kind / "model.safetensors").touch()
    return folder


def parsed(path: str, text: str) -> Any:
    return tomllib.loads(text) if path.endswith(".toml") else YAML(typ="safe").load(text)


@pytest.mark.parametrize(("trainer", "name"), sorted(CONFIGS))
def test_a_config_is_translated_as_the_golden_file_says(trainer, name, models):
    resume = Path("/job/checkpoints/checkpoint-20") if name == "sft-lora" else None
    start = Start(
        config=config_of(trainer, name, models),
        root=Path(ROOT),
        resume_from=resume,
        batch_divisor=2,
        row_count=1000,
    )

    files = PRESETS[trainer].files(start)

    golden = GOLDEN / f"{trainer}-{name}.yaml"
    made = {
        path: parsed(path, text.replace(str(models), "/models")) for path, text in files.items()
    }
    if "WRITE_GOLDEN" in os.environ:
        YAML().dump(made, golden)
    assert made == YAML(typ="safe").load(golden)


OTHER: dict[str, Any] = {
    "init": {"init": "random", "peft": None},
    "peft": {"peft": None},
    "peft.r": {"peft": {"r": 3}},
    "peft.lora_alpha": {"peft": {"lora_alpha": 7}},
    "peft.lora_dropout": {"peft": {"lora_dropout": 0.2}},
    "peft.target_modules": {"peft": {"target_modules": ["k_proj"]}},
    "peft.use_dora": {"peft": {"use_dora": True}},
    "peft.use_rslora": {"peft": {"use_rslora": True}},
    "quantization.load_in_4bit": {"quantization": IN_4BIT},
    "quantization.load_in_8bit": {"quantization": IN_8BIT},
    "quantization.bnb_4bit_quant_type": {"quantization": IN_4BIT | {"bnb_4bit_quant_type": "fp4"}},
    "quantization.bnb_4bit_use_double_quant": {
        "quantization": IN_4BIT | {"bnb_4bit_use_double_quant": False}
    },
    "quantization.bnb_4bit_compute_dtype": {
        "quantization": IN_4BIT | {"bnb_4bit_compute_dtype": "float32"}
    },
    "peft.modules_to_save": {"peft": {"modules_to_save": ["norm"]}},
    "dataset.eval_path": {"dataset": {"path": "rows.jsonl", "eval_path": "e.jsonl"}},
    "dataset.eval_split": {"dataset": {"path": "rows.jsonl", "eval_split": "test"}},
    "dataset.eval_fraction": {"dataset": {"path": "rows.jsonl", "eval_fraction": 0.3}},
    "num_train_epochs": {"num_train_epochs": 7, "max_steps": -1},
    "max_steps": {"max_steps": 77},
    "per_device_train_batch_size": {"per_device_train_batch_size": 6},
    "per_device_eval_batch_size": {"per_device_eval_batch_size": 6},
    "gradient_accumulation_steps": {"gradient_accumulation_steps": 5},
    "learning_rate": {"learning_rate": 0.123},
    "lr_scheduler_type": {"lr_scheduler_type": "linear"},
    "warmup_steps": {"warmup_steps": 33},
    "weight_decay": {"weight_decay": 0.7},
    "max_grad_norm": {"max_grad_norm": 0.7},
    "optim": {"optim": "adamw_bnb_8bit"},
    "max_length": {"max_length": 333},
    "packing": {"packing": True},
    "assistant_only_loss": {"assistant_only_loss": False},
    "gradient_checkpointing": {"gradient_checkpointing": True},
    "dtype": {"dtype": "float32"},
    "seed": {"seed": 7},
    "logging_steps": {"logging_steps": 7},
    "save_steps": {"save_steps": 7},
    "eval_steps": {"eval_steps": 7},
    "early_stopping_patience": {"early_stopping_patience": 7},
    "eval_on_start": {"eval_on_start": False},
}
"""Of every setting that any preset translates another value than in the configs above."""
AS_IT_IS = {
    *((name, "eval_on_start") for name in ("axolotl", "kohya", "torchtune", "unsloth")),
    ("torchtune", "lr_scheduler_type"),
    ("unsloth", "lr_scheduler_type"),
}
"""What a project does anyway, and cannot do otherwise."""


@pytest.mark.parametrize(
    ("trainer", "setting"),
    [(name, setting) for name in PRESETS for setting in sorted(PRESETS[name].translates)],
)
def test_a_setting_that_is_translated_reaches_the_project(trainer, setting, models):
    def written(**changes: Any) -> Any:
        config = config_of(trainer, "sft-lora", models, **changes)
        start = Start(config=config, root=Path(ROOT), row_count=1000)
        return PRESETS[trainer].files(start), PRESETS[trainer].varies(start)

    same = written() == written(**OTHER[setting])

    assert same == ((trainer, setting) in AS_IT_IS)


@pytest.mark.parametrize("trainer", sorted(set(PRESETS) - {"kohya"}))
def test_a_preset_runs_its_program_with_the_rows_and_the_smaller_batch(trainer, tmp_path, models):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"instruction": "Say it", "output": "It"}\n')
    directory = JobDirectory(tmp_path / "job")
    directory.root.mkdir()
    data = {**config_of(trainer, "sft-lora", models).dataset.model_dump(), "path": str(rows)}
    config = config_of(
        trainer, "sft-lora", models, dataset=data, command={"run": ["/opt/theirs"]}
    ).model_dump(mode="json")
    directory.job.write_text(json.dumps({"config": config}))
    directory.update_status(batch_divisor=4)

    command = translate(directory, None)
    plan = make_plan(directory, config, command, None)

    assert plan.words[0] == "/opt/theirs"
    [settings] = [word for word in plan.words if word.endswith(".yaml")]
    written = YAML(typ="safe").load(Path(settings))
    names = ("per_device_train_batch_size", "micro_batch_size", "batch_size")
    assert 2 in [part.get(n) for part in (written, written.get("training", {})) for n in names]
    [row] = (directory.root / "preset/train.jsonl").read_text().splitlines()
    assert [m["content"] for m in json.loads(row)["messages"]] == ["Say it", "It"]


def test_rows_without_a_chat_are_told(tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "no chat"}\n')
    directory = JobDirectory(tmp_path / "job")
    directory.root.mkdir()
    config = {"trainer": "axolotl", "model": "a/b", "dataset": str(rows)}
    directory.job.write_text(json.dumps({"config": config}))

    with pytest.raises(DataError, match=r"rows\.jsonl:1: is plain text without a chat"):
        translate(directory, None)


@pytest.mark.parametrize(
    ("trainer", "changes", "field"),
    [
        ("llama-factory", {"early_stopping_patience": 3}, "early_stopping_patience = 3"),
        ("axolotl", {"callbacks": ["mine.py:Mine"]}, r"callbacks = \['mine.py:Mine'\]"),
        ("axolotl", {"peft": {"peft_type": "prompt_tuning"}}, "peft.peft_type = 'prompt_tuning'"),
        (
            "axolotl",
            {"quantization": IN_8BIT | {"llm_int8_threshold": 5.0}},
            "quantization.llm_int8_threshold = 5.0",
        ),
        ("torchtune", {"quantization": IN_4BIT}, "quantization.load_in_4bit = True"),
        ("axolotl", {"padding_free": True}, "padding_free = True"),
        ("axolotl", {"report_to": ["wandb"]}, r"report_to = \['wandb'\]"),
        (
            "axolotl",
            {"method": "grpo", "reward_functions": ["length"], "max_completion_length": 9},
            r"reward_functions = \['length'\]",
        ),
        ("llama-factory", {"method": "dpo"}, "method = 'dpo'"),
        ("unsloth", {"dataset": {"path": "d", "eval_fraction": 0.1}}, "dataset.eval_fraction"),
        ("unsloth", {"num_train_epochs": 1.5}, "num_train_epochs = 1.5"),
        ("torchtune", {"max_steps": 9}, "max_steps = 9"),
        ("torchtune", {"model": "Qwen/Qwen3-0.6B"}, "needs a folder with the model"),
        ("torchtune", {"peft": {"target_modules": ["up_proj"]}}, "peft.target_modules"),
        ("kohya", {"peft": None}, "peft = None"),
        ("kohya", {"max_length": 77}, "max_length = 77"),
        ("kohya", {"command": None}, "needs to know where its script is"),
        ("kohya", {}, "/images': is not a folder of images"),
        ("command", {"learning_rate": 0.1}, "learning_rate = 0.1"),
        ("command", {"dataset": {"path": "d", "max_rows": 3}}, "dataset.max_rows = 3"),
    ],
)
def test_what_another_trainer_would_leave_out_is_refused_by_name(trainer, changes, field, models):
    base = {"model": "a/b", "dataset": {"path": "d"}, "command": {"run": ["x"]}}
    given = {**CONFIGS.get((trainer, "sft-lora"), base), "trainer": trainer, **changes}
    given["model"] = given["model"].replace("MODELS", str(models))

    with pytest.raises((ConfigError, DataError), match=field):
        check_foreign_settings(TrainingConfig.model_validate(given))


@pytest.mark.parametrize(
    ("kind", "sizes", "why"),
    [
        ("llama", {"rope_parameters": {"rope_type": "llama3"}}, r"positions are scaled \(llama3\)"),
        ("llama", {"rope_scaling": {"type": "linear"}, "rope_parameters": None}, "scaled"),
        ("llama", {"tie_word_embeddings": True}, "embeddings are tied"),
        ("gemma", {}, "is a 'gemma', which is not translated"),
    ],
)
def test_a_model_that_torchtune_would_build_otherwise_is_refused(tmp_path, kind, sizes, why):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind, **SIZES, **sizes}))
    config = {"trainer": "torchtune", "model": str(tmp_path), "dataset": "d"}

    with pytest.raises(ConfigError, match=why):
        check_foreign_settings(TrainingConfig.model_validate(config))


def test_what_is_written_out_again_in_full_is_not_refused(models):
    for trainer, name in CONFIGS:
        if trainer != "kohya":
            config = config_of(trainer, name, models)
            check_foreign_settings(TrainingConfig.model_validate(config.model_dump(mode="json")))


def test_images_without_a_text_are_told(tmp_path, models):
    for number in range(3):
        (tmp_path / f"{number}.png").touch()
    (tmp_path / "0.txt").write_text("a cat")
    config = config_of("kohya", "sft-lora", models, dataset=str(tmp_path))

    with pytest.raises(DataError, match=r"1\.png and 1 more of 3 images have no text"):
        check_foreign_settings(config)

    for number in (1, 2):
        (tmp_path / f"{number}.txt").write_text("a dog")
    check_foreign_settings(config)


def test_a_checkpoint_is_put_where_unsloth_looks_for_its_own(tmp_path, models):
    checkpoint = tmp_path / "checkpoints/checkpoint-20"
    checkpoint.mkdir(parents=True)
    (checkpoint / "trainer_state.json").write_text("{}")
    start = Start(
        config=config_of("unsloth", "sft-lora", models), root=tmp_path, resume_from=checkpoint
    )

    words = as_command(PRESETS["unsloth"], start)["run"]

    place = tmp_path / "out/outputs/run/checkpoint-20"
    assert words[-2:] == ["--resume-from-checkpoint", str(place)]
    assert (place / "trainer_state.json").read_text() == "{}"


SAID = {
    "llama-factory": [
        '{"current_steps": 5, "total_steps": 20, "loss": 1.25, "lr": 1e-05, "epoch": 0.5}',
        '{"current_steps": 5, "total_steps": 20, "eval_loss": 1.5, "epoch": 0.5}',
    ],
    "axolotl": [
        "Tokenizing Prompts (num_proc=2): 100%|████| 378/378 [00:01<00:00, 300 examples/s]",
        " 25%|██▌       | 5/20 [00:10<00:30,  2.00s/it]",
        "{'loss': '1.25', 'grad_norm': '0.5', 'learning_rate': '1e-05', 'epoch': '0.5'}",
        " 50%|█████     | 2/4 [00:00<00:00,  9.00it/s]",
        "{'eval_loss': 1.5, 'eval_runtime': 0.2, 'epoch': 0.5}",
    ],
    "unsloth": [
        " 25%|██▌       | 5/20 [00:10<00:30,  2.00s/it]",
        "{'loss': 1.25, 'grad_norm': 0.5, 'learning_rate': 1e-05, 'epoch': 0.5}",
    ],
    "torchtune": [
        "1|5|Loss: 1.25:  25%|██▌       | 5/20 [00:10<00:30,  2.00s/it]",
        "Step 5 | loss:1.25 lr:1e-05 tokens_per_second_per_gpu:310.5 grad_norm:0.5 ",
    ],
    "kohya": [
        "caching latents: 100%|██████████| 9/9 [00:02<00:00,  4.10it/s]",
        "steps:  25%|██▌       | 5/20 [00:10<00:30,  2.00s/it, avr_loss=1.25]",
    ],
}
TOLD = {"total_steps": 20, "train_loss": 1.25, "eval_loss": 1.5, "learning_rate": 1e-05}
UNTOLD = {
    "unsloth": {"eval_loss"},
    "torchtune": {"eval_loss", "total_steps"},
    "kohya": {"eval_loss", "learning_rate"},
}


@pytest.mark.parametrize("trainer", sorted(PRESETS))
def test_what_the_project_says_becomes_metrics(trainer, tmp_path, models):
    directory = JobDirectory(tmp_path)
    config = config_of(trainer, "sft-lora", models)
    command = as_command(PRESETS[trainer], Start(config=config, root=tmp_path))
    reader = MetricsReader(directory, [re.compile(text) for text in command["metrics"]])

    for line in SAID[trainer]:
        reader.understand(line)

    steps, _ = read_metrics(directory.metrics)
    assert list(steps) == [5]
    told = {name: value for name, value in TOLD.items() if name not in UNTOLD.get(trainer, ())}
    assert {name: steps[5][name] for name in told} == told


def test_steps_that_count_from_zero_after_a_resume_go_on_from_the_checkpoint(tmp_path, models):
    directory = JobDirectory(tmp_path)
    config = config_of("kohya", "sft-lora", models)
    resume = tmp_path / "checkpoints/checkpoint-20"
    command = as_command(PRESETS["kohya"], Start(config=config, root=tmp_path, resume_from=resume))
    plan = make_plan(directory, config.model_dump(), command, resume)
    reader = MetricsReader(directory, plan.patterns, first_step=plan.first_step)

    reader.understand("steps:  25%|██▌       | 5/20 [00:10<00:30,  2.00s/it, avr_loss=1.25]")

    steps, _ = read_metrics(directory.metrics)
    assert steps[25]["total_steps"] == 40
