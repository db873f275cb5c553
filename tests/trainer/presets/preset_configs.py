"""Jobs for other trainers, by trainer and name; golden/ holds what each becomes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trainer.config import TrainingConfig

LORA = {"r": 8, "target_modules": ["q_proj", "v_proj"]}
CHATS = {
    "model": "Qwen/Qwen3-0.6B",
    "dataset": {"path": "rows.jsonl", "eval_fraction": 0.1},
    "peft": {**LORA, "modules_to_save": ["lm_head"]},
    "max_steps": 50,
    "eval_steps": 10,
    "gradient_accumulation_steps": 2,
    "dtype": "bfloat16",
    "arguments": {"neftune_noise_alpha": 5},
}
TEXTS = {
    "model": "/models/base",
    "method": "cpt",
    "init": "random",
    "peft": None,
    "dataset": {"path": "rows.jsonl", "eval_path": "held-out.jsonl"},
    "warmup_steps": 20,
}
FEW_BITS = {
    "model": "Qwen/Qwen3-0.6B",
    "dataset": "rows.jsonl",
    "peft": {"r": 8, "use_dora": True, "use_rslora": True},
    "quantization": {"load_in_4bit": True, "bnb_4bit_use_double_quant": False},
    "optim": "paged_adamw_8bit",
}
IN_4BIT, IN_8BIT = {"load_in_4bit": True}, {"load_in_8bit": True}
CONFIGS: dict[tuple[str, str], dict[str, Any]] = {
    ("axolotl", "sft-lora"): CHATS,
    ("axolotl", "sft-qdora"): FEW_BITS,
    ("axolotl", "cpt-full"): TEXTS,
    ("llama-factory", "sft-lora"): CHATS,
    ("llama-factory", "sft-qdora"): FEW_BITS,
    ("llama-factory", "cpt-full"): TEXTS,
    ("unsloth", "sft-lora"): {
        "model": "Qwen/Qwen3-0.6B",
        "dataset": "rows.jsonl",
        "peft": LORA,
        "max_steps": 50,
        "gradient_accumulation_steps": 2,
    },
    ("unsloth", "cpt-full"): {
        "model": "/models/base",
        "method": "cpt",
        "peft": None,
        "dataset": "rows.jsonl",
        "warmup_steps": 20,
    },
    ("torchtune", "sft-lora"): {
        "model": "MODELS/qwen2",
        "dataset": "rows.jsonl",
        "peft": {**LORA, "target_modules": ["q_proj", "o_proj"]},
        "gradient_accumulation_steps": 2,
        "dtype": "bfloat16",
    },
    ("torchtune", "cpt-full"): {
        "model": "MODELS/llama",
        "method": "cpt",
        "peft": None,
        "dataset": "rows.jsonl",
        "warmup_steps": 20,
    },
    ("kohya", "sft-lora"): {
        "model": "/models/sd.safetensors",
        "dataset": "/images",
        "peft": {"r": 8},
        "max_steps": 50,
        "gradient_accumulation_steps": 2,
        "dtype": "bfloat16",
        "arguments": {"resolution": 768, "network_train_unet_only": True},
        "command": {"run": ["python", "/opt/sd-scripts/train_network.py"]},
    },
}


def config_of(trainer: str, name: str, models: Path, **changes: Any) -> TrainingConfig:
    """Return a job's settings with `changes`, its model in the folder `models`."""
    given = {"trainer": trainer, **CONFIGS[trainer, name], **changes}
    given["model"] = given["model"].replace("MODELS", str(models))
    return TrainingConfig.model_validate(given)
