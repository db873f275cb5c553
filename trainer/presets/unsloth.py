"""Unsloth: `unsloth train --config SETTINGS`. Names are those of its command line's config.

It writes only below the home of its studio, so that is the job's `out`. Its learning rate falls
linearly, whatever `lr_scheduler_type` is left at.
"""

from __future__ import annotations

import shutil
from typing import Any

from trainer.config import LoraConfig, TrainingConfig
from trainer.contract.files import link_or_copy
from trainer.presets.preset import FOLDER, LORA, OUT, PRINTED, Preset, Start, as_yaml

SETTINGS = f"{FOLDER}/unsloth.yaml"
RUN = f"{OUT}/outputs/run"
EVERY_LINEAR = "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj"
ITS_WARMUP = 5  # steps, where we only know a share of an unknown number


def _files(start: Start) -> dict[str, str]:
    return {SETTINGS: as_yaml(_settings(start))}


def _settings(start: Start) -> dict[str, Any]:
    config = start.config
    return {
        "model": config.model,
        "data": {
            "local_dataset": [str(start.rows)],
            "format_type": "raw" if config.method == "cpt" else "chatml",
        },
        "training": {
            "training_type": "lora" if config.peft else "full",
            "max_seq_length": config.max_length,
            "load_in_4bit": bool(config.quantization),
            "output_dir": str(start.root / RUN),
            "num_epochs": int(config.num_train_epochs),
            # Its word for no limit is 0, ours is -1.
            "max_steps": max(0, config.max_steps),
            "batch_size": start.batch_size,
            "gradient_accumulation_steps": start.accumulation,
            "learning_rate": start.config.initial_learning_rate,
            "warmup_steps": _warmup(config),
            "weight_decay": config.weight_decay,
            "random_seed": config.seed,
            "packing": config.packs,
            "train_on_completions": config.assistant_only_loss,
            "gradient_checkpointing": "true" if config.gradient_checkpointing is True else "none",
            "save_steps": config.save_steps,
            **config.arguments,
        },
        "lora": _lora(config),
    }


def _warmup(config: TrainingConfig) -> int:
    if config.warmup_steps >= 1 or config.warmup_steps == 0:
        return int(config.warmup_steps)
    # It takes a number of steps, and without max_steps that of a share is not known here.
    return round(config.warmup_steps * config.max_steps) if config.max_steps > 0 else ITS_WARMUP


def _lora(config: TrainingConfig) -> dict[str, Any] | None:
    peft = config.peft
    if not isinstance(peft, LoraConfig):
        return None
    every = isinstance(peft.target_modules, str)
    return {
        "lora_r": peft.r,
        "lora_alpha": peft.lora_alpha,
        "lora_dropout": peft.lora_dropout,
        "target_modules": EVERY_LINEAR if every else ",".join(peft.target_modules),
        "use_dora": peft.use_dora,
        "use_rslora": peft.use_rslora,
    }


def _resuming(start: Start) -> dict[str, Any]:
    """Put the checkpoint where it looks for its own; it refuses any other place."""
    if start.resume_from is None:
        return {}
    place = start.root / RUN / start.resume_from.name
    if not place.exists():
        # Copied beside its place and renamed: a torn copy must not be resumed from.
        staged = place.with_name(f".{place.name}.arriving")
        shutil.rmtree(staged, ignore_errors=True)
        shutil.copytree(start.resume_from, staged, copy_function=link_or_copy)
        staged.rename(place)
    return {"arguments": ["train", *_CONFIG, "--resume-from-checkpoint", str(place)]}


_CONFIG = ("--config", "{job_directory}/" + SETTINGS)

PRESET = Preset(
    name="unsloth",
    program="unsloth",
    arguments=("train", *_CONFIG),
    files=_files,
    translates=LORA
    | {
        *("peft.use_dora", "peft.use_rslora", "quantization.load_in_4bit"),
        *("peft", "num_train_epochs", "max_steps", "per_device_train_batch_size"),
        *("gradient_accumulation_steps", "learning_rate", "lr_scheduler_type", "warmup_steps"),
        *("weight_decay", "max_length", "packing", "assistant_only_loss"),
        *("gradient_checkpointing", "seed", "save_steps", "eval_on_start"),
    },
    command={
        "metrics": list(PRINTED),
        "checkpoints": f"{RUN}/checkpoint-*",
        "checkpoint_marker": "trainer_state.json",  # transformers writes it last
        "output": RUN,
        "env": {"UNSLOTH_STUDIO_HOME": "{job_directory}/" + OUT},
    },
    varies=_resuming,
    cannot={
        "num_train_epochs": lambda config: config.num_train_epochs % 1,
        # cosine is our default, so it is also what a job says that says nothing.
        "lr_scheduler_type": lambda config: config.lr_scheduler_type not in {"cosine", "linear"},
    },
)
