"""Axolotl 0.19: `axolotl train SETTINGS`. Names are those of its config schemas."""

from __future__ import annotations

from typing import Any

from trainer.config import LoraConfig, QuantizationConfig, TrainingConfig
from trainer.presets.preset import FOLDER, HUGGING_FACE, OUT, PRINTED, Preset, Start, as_yaml

SETTINGS = f"{FOLDER}/axolotl.yaml"


def _files(start: Start) -> dict[str, str]:
    return {SETTINGS: as_yaml(_settings(start))}


def _settings(start: Start) -> dict[str, Any]:
    config = start.config
    warmup = config.warmup_steps
    packs = config.packing if config.packing is not None else config.method == "cpt"
    return {
        "base_model": config.model,
        "reinit_weights": config.init == "random" or None,
        **_lora(config),
        "datasets": [_dataset(start, str(start.rows))],
        "dataset_prepared_path": str(start.root / FOLDER / "prepared"),
        **_evaluation(start),
        "sequence_len": config.max_length,
        # Its default drops rows that are too long; ours cuts them.
        "excess_length_strategy": "truncate",
        "sample_packing": packs,
        "train_on_inputs": not config.assistant_only_loss,
        "output_dir": str(start.root / OUT),
        "num_epochs": config.num_train_epochs,
        "max_steps": config.max_steps if config.max_steps > 0 else None,
        "micro_batch_size": start.batch_size,
        "gradient_accumulation_steps": start.accumulation,
        "learning_rate": start.config.initial_learning_rate,
        "lr_scheduler": config.lr_scheduler_type,
        # It has two settings where transformers 5 has one, and takes only one of them.
        **({"warmup_ratio": warmup} if warmup < 1 else {"warmup_steps": int(warmup)}),
        "weight_decay": config.weight_decay,
        "max_grad_norm": config.max_grad_norm,
        "optimizer": config.optim,
        "gradient_checkpointing": config.gradient_checkpointing is True,
        "bf16": {"auto": "auto", "bfloat16": True}.get(config.dtype, False),
        "fp16": config.dtype == "float16",
        "seed": config.seed,
        "logging_steps": config.logging_steps,
        "save_steps": config.save_steps,
        "save_total_limit": config.save_total_limit,
        "resume_from_checkpoint": start.resume_from and str(start.resume_from),
        **config.arguments,
    }


def _lora(config: TrainingConfig) -> dict[str, Any]:
    peft, quantization = config.peft, config.quantization
    if not isinstance(peft, LoraConfig):
        return {}
    every = isinstance(peft.target_modules, str)
    in_4bit = bool(quantization and quantization.load_in_4bit)
    return {
        "adapter": "qlora" if in_4bit else "lora",
        "lora_r": peft.r,
        "lora_alpha": peft.lora_alpha,
        "lora_dropout": peft.lora_dropout,
        "lora_target_linear": every or None,
        "lora_target_modules": None if every else peft.target_modules,
        "lora_modules_to_save": peft.modules_to_save,
        "peft_use_dora": peft.use_dora or None,
        "peft_use_rslora": peft.use_rslora or None,
        "load_in_4bit": in_4bit or None,
        "load_in_8bit": bool(quantization and quantization.load_in_8bit) or None,
        "bnb_config_kwargs": _in_4bit(quantization) if quantization and in_4bit else None,
    }


def _in_4bit(quantization: QuantizationConfig) -> dict[str, Any]:
    """Return what goes to BitsAndBytesConfig; where nothing is said, Axolotl chooses."""
    names = {"bnb_4bit_quant_type", "bnb_4bit_use_double_quant", "bnb_4bit_compute_dtype"}
    return quantization.model_dump(include=names, exclude_none=True)


def _dataset(start: Start, path: str) -> dict[str, Any]:
    if start.config.method == "cpt":
        return {"path": path, "ds_type": "json", "type": "completion", "field": "text"}
    return {
        "path": path,
        "ds_type": "json",
        "type": "chat_template",
        "field_messages": "messages",
        "message_property_mappings": {"role": "role", "content": "content"},
    }


def _evaluation(start: Start) -> dict[str, Any]:
    if not start.evaluates:
        return {}
    config = start.config
    when = {"eval_steps": config.eval_steps} if config.eval_steps else {"evals_per_epoch": 1}
    held_out: dict[str, Any] = {"val_set_size": config.dataset.eval_fraction}
    if start.eval_rows:
        held_out = {"test_datasets": [{**_dataset(start, str(start.eval_rows)), "split": "train"}]}
    return {
        **held_out,
        **when,
        "eval_batch_size": config.per_device_eval_batch_size,
        "early_stopping_patience": config.early_stopping_patience,
    }


PRESET = Preset(
    name="axolotl",
    program="axolotl",
    arguments=("train", "{job_directory}/" + SETTINGS),
    files=_files,
    command={
        "metrics": list(PRINTED),
        "checkpoints": f"{OUT}/checkpoint-*",
        "checkpoint_marker": "trainer_state.json",  # transformers writes it last
        "output": OUT,
        "env": {"AXOLOTL_DO_NOT_TRACK": "1"},
    },
    # It never evaluates before training, so eval_on_start: false is what it does.
    translates=HUGGING_FACE
    | {"early_stopping_patience", "eval_on_start", "quantization.bnb_4bit_compute_dtype"},
)
