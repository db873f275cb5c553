"""Presets write the other project's settings as they lie in golden/, and nothing is guessed twice."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from trainer.config import TrainingConfig
from trainer.errors import ConfigError, DataError
from trainer.foreign.plan import make_plan
from trainer.foreign.reading import MetricsReader
from trainer.job_directory import JobDirectory
from trainer.metrics import read_metrics
from trainer.presets import PRESETS, as_command, check_preset, translate
from trainer.presets.preset import Start

GOLDEN = Path(__file__).parent / "golden"
ROOT = "/job"
CONFIGS: dict[str, dict[str, Any]] = {
    "sft-lora": {
        "model": "Qwen/Qwen3-0.6B",
        "dataset": {"path": "rows.jsonl", "eval_fraction": 0.1},
        "peft": {"r": 8, "target_modules": ["q_proj", "v_proj"], "modules_to_save": ["lm_head"]},
        "max_steps": 50,
        "eval_steps": 10,
        "gradient_accumulation_steps": 2,
        "dtype": "bfloat16",
        "arguments": {"neftune_noise_alpha": 5},
    },
    "sft-qdora": {
        "model": "Qwen/Qwen3-0.6B",
        "dataset": "rows.jsonl",
        "peft": {"r": 8, "use_dora": True, "use_rslora": True},
        "quantization": {"load_in_4bit": True, "bnb_4bit_use_double_quant": False},
        "optim": "paged_adamw_8bit",
    },
    "cpt-full": {
        "model": "/models/base",
        "method": "cpt",
        "init": "random",
        "peft": None,
        "dataset": {"path": "rows.jsonl", "eval_path": "held-out.jsonl"},
        "warmup_steps": 20,
    },
}


def config_of(trainer: str, name: str) -> TrainingConfig:
    return TrainingConfig.model_validate({"trainer": trainer, **CONFIGS[name]})


@pytest.mark.parametrize("name", sorted(CONFIGS))
@pytest.mark.parametrize("trainer", sorted(PRESETS))
def test_a_config_is_translated_as_the_golden_file_says(trainer, name):
    resume = Path("/job/checkpoints/checkpoint-20") if name == "sft-lora" else None
    start = Start(
        config=config_of(trainer, name), root=Path(ROOT), resume_from=resume, batch_divisor=2
    )

    files = PRESETS[trainer].files(start)

    golden = GOLDEN / f"{trainer}-{name}.yaml"
    made = {path: YAML(typ="safe").load(text) for path, text in files.items()}
    if "WRITE_GOLDEN" in os.environ:
        YAML().dump(made, golden)
    assert made == YAML(typ="safe").load(golden)


@pytest.mark.parametrize("trainer", sorted(PRESETS))
def test_a_preset_runs_its_program_with_the_rows_and_the_smaller_batch(trainer, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"instruction": "Say it", "output": "It"}\n')
    directory = JobDirectory(tmp_path / "job")
    directory.root.mkdir()
    settings = {**CONFIGS["sft-lora"], "dataset": str(rows), "command": {"run": ["/opt/theirs"]}}
    config = TrainingConfig.model_validate({"trainer": trainer, **settings}).model_dump(mode="json")
    directory.job.write_text(json.dumps({"config": config}))
    directory.update_status(batch_divisor=4)

    command = translate(directory, None)
    plan = make_plan(directory, config, command, None)

    assert plan.words[:2] == ("/opt/theirs", "train")
    written = YAML(typ="safe").load(Path(plan.words[2]))
    sizes = {written.get("per_device_train_batch_size"), written.get("micro_batch_size")}
    assert sizes == {2, None}
    [row] = (directory.root / "preset/train.jsonl").read_text().splitlines()
    assert [m["content"] for m in json.loads(row)["messages"]] == ["Say it", "It"]


def test_what_another_project_has_no_place_for_is_named(tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "no chat"}\n')
    directory = JobDirectory(tmp_path / "job")
    directory.root.mkdir()
    config = {"trainer": "axolotl", "model": "a/b", "dataset": str(rows)}
    directory.job.write_text(json.dumps({"config": config}))

    with pytest.raises(DataError, match=r"rows\.jsonl:1: is plain text without a chat"):
        translate(directory, None)
    with pytest.raises(ConfigError, match=r"training\.early_stopping_patience = 3"):
        check_preset(
            TrainingConfig.model_validate(
                {
                    "trainer": "llama-factory",
                    "model": "a/b",
                    "dataset": {"path": "c/d", "eval_fraction": 0.1},
                    "early_stopping_patience": 3,
                }
            )
        )


SOFT = {"peft_type": "prompt_tuning"}
EXACT = {"load_in_8bit": True, "llm_int8_threshold": 5.0}


@pytest.mark.parametrize("trainer", sorted(PRESETS))
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"peft": SOFT}, r"training\.peft\.peft_type = 'prompt_tuning'"),
        ({"quantization": EXACT}, r"training\.quantization\.llm_int8_threshold = 5\.0"),
    ],
)
def test_adapters_and_bits_that_only_we_have_are_refused(trainer, settings, words):
    config = {"trainer": trainer, "model": "a/b", "dataset": "c/d", **settings}

    with pytest.raises(ConfigError, match=words):
        check_preset(TrainingConfig.model_validate(config))


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
}


@pytest.mark.parametrize("trainer", sorted(PRESETS))
def test_what_the_project_says_becomes_metrics(trainer, tmp_path):
    directory = JobDirectory(tmp_path)
    command = as_command(
        PRESETS[trainer], Start(config=config_of(trainer, "sft-lora"), root=tmp_path)
    )
    reader = MetricsReader(directory, [re.compile(text) for text in command["metrics"]])

    for line in SAID[trainer]:
        reader.understand(line)

    steps, _ = read_metrics(directory.metrics)
    assert list(steps) == [5]
    found = {n: steps[5][n] for n in ("total_steps", "train_loss", "eval_loss", "learning_rate")}
    assert found == {
        "total_steps": 20,
        "train_loss": 1.25,
        "eval_loss": 1.5,
        "learning_rate": 1e-05,
    }
