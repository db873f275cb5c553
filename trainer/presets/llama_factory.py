"""LLaMA-Factory 0.9: `llamafactory-cli train SETTINGS`.

Names are those of its hparams (model, data, finetuning) and of transformers' TrainingArguments.
"""

from __future__ import annotations

import json
from typing import Any

from trainer.config import LoraConfig, QuantizationConfig, TrainingConfig
from trainer.presets.preset import (
    EVAL,
    FOLDER,
    HUGGING_FACE,
    NUMBER,
    OUT,
    TRAIN,
    Preset,
    Start,
    as_yaml,
)

SETTINGS = f"{FOLDER}/llama-factory.yaml"


def _files(start: Start) -> dict[str, str]:
    return {
        SETTINGS: as_yaml(_settings(start)),
        f"{FOLDER}/dataset_info.json": json.dumps(_dataset_info(start.config), indent=1) + "\n",
    }


def _settings(start: Start) -> dict[str, Any]:
    config = start.config
    warmup = config.warmup_steps
    return {
        "model_name_or_path": config.model,
        "train_from_scratch": config.init == "random" or None,
        "stage": "pt" if config.method == "cpt" else "sft",
        "do_train": True,
        "finetuning_type": "lora" if config.peft else "full",
        **_lora(config),
        **_quantization(config.quantization),
        "dataset_dir": str(start.root / FOLDER),
        "dataset": "train",
        **_evaluation(start),
        "cutoff_len": config.max_length,
        "packing": config.packing if config.packing is not None else config.method == "cpt",
        # None is left out of the file, and leaves its default.
        "train_on_prompt": not config.assistant_only_loss or None,
        "output_dir": str(start.root / OUT),
        "num_train_epochs": config.num_train_epochs,
        "max_steps": config.max_steps,
        "per_device_train_batch_size": start.batch_size,
        "gradient_accumulation_steps": start.accumulation,
        "learning_rate": start.config.initial_learning_rate,
        "lr_scheduler_type": config.lr_scheduler_type,
        # transformers 5 reads a number below 1 as a share; above, it must be an int.
        "warmup_steps": warmup if warmup < 1 else int(warmup),
        "weight_decay": config.weight_decay,
        "max_grad_norm": config.max_grad_norm,
        "optim": config.optim,
        # It checkpoints by default; our `auto` is not predicted for other projects, and means off.
        "disable_gradient_checkpointing": config.gradient_checkpointing is not True,
        "bf16": config.dtype == "bfloat16" or (config.dtype == "auto" and start.has_gpu),
        "fp16": config.dtype == "float16",
        "seed": config.seed,
        "logging_steps": config.logging_steps,
        "save_steps": config.save_steps,
        "save_total_limit": config.save_total_limit,
        "enable_jit_checkpoint": True,  # transformers 5: on SIGTERM save a checkpoint and end
        "report_to": "none",
        "resume_from_checkpoint": start.resume_from and str(start.resume_from),
        # Last, so that the user's words win over our translation.
        **config.arguments,
    }


def _lora(config: TrainingConfig) -> dict[str, Any]:
    peft = config.peft
    if not isinstance(peft, LoraConfig):
        return {}
    targets = peft.target_modules
    return {
        "lora_rank": peft.r,
        "lora_alpha": peft.lora_alpha,
        "lora_dropout": peft.lora_dropout,
        "lora_target": "all" if isinstance(targets, str) else ",".join(targets),
        "additional_target": ",".join(peft.modules_to_save) if peft.modules_to_save else None,
        "use_dora": peft.use_dora or None,
        "use_rslora": peft.use_rslora or None,
    }


def _quantization(quantization: QuantizationConfig | None) -> dict[str, Any]:
    if quantization is None:
        return {}
    return {
        "quantization_method": "bnb",
        "quantization_bit": quantization.bits,
        "quantization_type": quantization.bnb_4bit_quant_type,
        "double_quantization": quantization.bnb_4bit_use_double_quant,
    }


def _evaluation(start: Start) -> dict[str, Any]:
    if not start.evaluates:
        return {}
    config = start.config
    held_out = (
        {"eval_dataset": "eval"} if start.eval_rows else {"val_size": config.dataset.eval_fraction}
    )
    return {
        **held_out,
        "eval_strategy": "steps" if config.eval_steps else "epoch",
        "eval_steps": config.eval_steps,
        # A resumed run would evaluate once more, at a step that is on the curve already.
        "eval_on_start": config.eval_on_start and start.resume_from is None,
        "per_device_eval_batch_size": config.per_device_eval_batch_size,
    }


def _dataset_info(config: TrainingConfig) -> dict[str, Any]:
    """Return what dataset_info.json says of the rows that we write."""
    if config.method == "cpt":
        layout: dict[str, Any] = {"columns": {"prompt": "text"}}
    else:
        layout = {
            "formatting": "sharegpt",
            "columns": {"messages": "messages"},
            "tags": {
                "role_tag": "role",
                "content_tag": "content",
                "user_tag": "user",
                "assistant_tag": "assistant",
                "system_tag": "system",
            },
        }
    files = {"train": TRAIN} | ({"eval": EVAL} if config.dataset.has_evaluation else {})
    return {name: {"file_name": file, **layout} for name, file in files.items()}


PRESET = Preset(
    name="llama-factory",
    program="llamafactory-cli",
    arguments=("train", "{job_directory}/" + SETTINGS),
    files=_files,
    command={
        # trainer_log.jsonl: {"current_steps": 5, "total_steps": 20, "loss": 1.2, "lr": 1e-4, ...}
        "metrics_file": f"{OUT}/trainer_log.jsonl",
        "metrics": [
            r'"current_steps": (?P<step>\d+), "total_steps": (?P<total_steps>\d+)'
            rf'(?:.*?"loss": (?P<train_loss>{NUMBER}))?'
            rf'(?:.*?"lr": (?P<learning_rate>{NUMBER}))?'
            r'(?:.*?"epoch": (?P<epoch>[\d.]+))?',
            r'"current_steps": (?P<step>\d+), .*"eval_loss": (?P<eval_loss>[^,}]+)',
        ],
        "checkpoints": f"{OUT}/checkpoint-*",
        "checkpoint_marker": "trainer_state.json",  # transformers writes it last
        "output": OUT,
        # It refuses newer versions of transformers than it was tested with.
        "env": {"DISABLE_VERSION_CHECK": "1"},
    },
    translates=HUGGING_FACE | {"eval_on_start"},
)
