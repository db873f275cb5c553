"""torchtune 0.6: `tune run RECIPE --config SETTINGS`, on one device.

Its models are built from sizes in the model's config.json, so the model is a folder. It
saves at the end of an epoch and keeps what it resumes from beside its checkpoints, so a killed job
begins anew.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from trainer.config import LoraConfig, TrainingConfig
from trainer.contract.errors import ConfigError
from trainer.contract.files import read_json
from trainer.presets.preset import FOLDER, LORA, NUMBER, OUT, Preset, Start, asks_for_a_pattern

SETTINGS = f"{FOLDER}/torchtune.yaml"
METRICS = "metrics.txt"
MODELS = "torchtune.models"
FAMILIES = {"qwen2": ("qwen2", "QWEN2"), "llama": ("llama3", "LLAMA3")}
"""Of config.json's `model_type`: the builder, and what the checkpointer calls it."""
ATTENTION = {"q_proj": "q_proj", "k_proj": "k_proj", "v_proj": "v_proj", "o_proj": "output_proj"}
MLP = {"gate_proj", "up_proj", "down_proj"}
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "adamw_torch": {"_component_": "torch.optim.AdamW"},
    "adamw_torch_fused": {"_component_": "torch.optim.AdamW", "fused": True},
    "adamw_bnb_8bit": {"_component_": "bitsandbytes.optim.AdamW8bit"},
}


def _files(start: Start) -> dict[str, str]:
    # Not `as_yaml`: its recipes look for every setting, be it null.
    return {SETTINGS: json.dumps(_settings(start), indent=1) + "\n"}


def _settings(start: Start) -> dict[str, Any]:
    config, folder = start.config, Path(start.config.model).expanduser()
    sizes = _sizes(folder)
    _, checkpointed_as = FAMILIES[sizes["model_type"]]
    return {
        "output_dir": str(start.root / OUT),
        "model": _model(sizes, config),
        "tokenizer": _tokenizer(sizes["model_type"], folder, config.max_length),
        "checkpointer": {
            "_component_": "torchtune.training.FullModelHFCheckpointer",
            "checkpoint_dir": str(folder),
            "checkpoint_files": sorted(path.name for path in folder.glob("*.safetensors")),
            "recipe_checkpoint": None,
            "output_dir": str(start.root / OUT),
            "model_type": checkpointed_as,
        },
        "resume_from_checkpoint": False,
        "save_adapter_weights_only": True if config.peft else None,
        "dataset": _dataset(start),
        "seed": config.seed,
        "shuffle": True,
        "epochs": int(config.num_train_epochs),
        "max_steps_per_epoch": None,
        "batch_size": start.batch_size,
        "gradient_accumulation_steps": start.accumulation,
        "optimizer": {
            **OPTIMIZERS[config.optim],
            "lr": start.config.initial_learning_rate,
            "weight_decay": config.weight_decay,
        },
        "optimizer_in_bwd": None if config.peft else False,
        "lr_scheduler": {
            "_component_": "torchtune.training.lr_schedulers.get_cosine_schedule_with_warmup",
            "num_warmup_steps": _warmup(start),
        },
        "loss": {"_component_": "torchtune.modules.loss.CEWithChunkedOutputLoss"},
        "clip_grad_norm": config.max_grad_norm or None,
        "device": "cuda" if start.has_gpu else "cpu",
        "dtype": "bf16" if _is_half(start) else "fp32",
        "compile": False,
        "enable_activation_checkpointing": config.gradient_checkpointing is True,
        "enable_activation_offloading": False,
        "metric_logger": {
            "_component_": "torchtune.training.metric_logging.DiskLogger",
            "log_dir": str(start.root / OUT),
            "filename": METRICS,
        },
        "log_every_n_steps": config.logging_steps,
        "log_peak_memory_stats": False,
        **config.arguments,
    }


def _sizes(folder: Path) -> dict[str, Any]:
    """Return the model's config.json.

    Raises:
        ConfigError: it is not here, or of an architecture that is not translated.
    """
    sizes = read_json(folder / "config.json")
    if sizes is None:
        raise ConfigError(
            f"training.model = {str(folder)!r}: trainer: torchtune needs a folder with the model.",
            "Download it first, such as by: tune download NAME.",
        )
    if sizes.get("model_type") not in FAMILIES:
        raise ConfigError(
            f"training.model: is a {sizes.get('model_type')!r}, which is not translated for "
            f"trainer: torchtune; there are: {', '.join(FAMILIES)}.",
            "Train it with trainer: builtin, or by trainer: command with a config of your own.",
        )
    if why := _unlike(sizes):
        raise ConfigError(
            f"training.model: {why}, which is not translated for trainer: torchtune.",
            "Train it with trainer: builtin, or by trainer: command with a config of your own.",
        )
    return sizes


def _unlike(sizes: dict[str, Any]) -> str:
    """Return what its builders would silently do otherwise than the model does."""
    rope = sizes.get("rope_parameters") or sizes.get("rope_scaling") or {}
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind != "default":
        return f"its positions are scaled ({kind})"
    if sizes["model_type"] == "llama" and sizes.get("tie_word_embeddings"):
        return "is a Llama whose embeddings are tied"
    return ""


def _model(sizes: dict[str, Any], config: TrainingConfig) -> dict[str, Any]:
    builder, _ = FAMILIES[sizes["model_type"]]
    adapters = _lora(config.peft) if isinstance(config.peft, LoraConfig) else {}
    # transformers 5 keeps rope_theta in rope_parameters, 4 at the top level.
    rope = sizes.get("rope_parameters") or sizes
    is_tied = {"tie_word_embeddings": sizes.get("tie_word_embeddings", False)}
    heads = sizes["num_attention_heads"]
    return {
        "_component_": f"{MODELS}.{builder}.{'lora_' if adapters else ''}{builder}",
        "vocab_size": sizes["vocab_size"],
        "num_layers": sizes["num_hidden_layers"],
        "num_heads": heads,
        "num_kv_heads": sizes.get("num_key_value_heads", heads),
        "embed_dim": sizes["hidden_size"],
        "intermediate_dim": sizes["intermediate_size"],
        "max_seq_len": sizes["max_position_embeddings"],
        "norm_eps": sizes["rms_norm_eps"],
        "rope_base": int(rope.get("rope_theta", 10_000)),
        **(is_tied if builder == "qwen2" else {}),
        **adapters,
    }


def _lora(peft: LoraConfig) -> dict[str, Any]:
    every = isinstance(peft.target_modules, str)
    names = {*ATTENTION, *MLP} if every else set(peft.target_modules)
    return {
        "lora_attn_modules": [ATTENTION[name] for name in ATTENTION if name in names],
        # All three or none; a part of them is refused by `_other_targets`.
        "apply_lora_to_mlp": names >= MLP,
        "lora_rank": peft.r,
        "lora_alpha": peft.lora_alpha,
        "lora_dropout": peft.lora_dropout,
        "use_dora": peft.use_dora,
    }


def _tokenizer(kind: str, folder: Path, max_length: int) -> dict[str, Any]:
    if kind == "qwen2":
        return {
            "_component_": f"{MODELS}.qwen2.qwen2_tokenizer",
            "path": str(folder / "vocab.json"),
            "merges_file": str(folder / "merges.txt"),
            "special_tokens_path": str(folder / "tokenizer.json"),
            "max_seq_len": max_length,
        }
    return {
        "_component_": f"{MODELS}.llama3.llama3_tokenizer",
        # It reads Meta's own file, which repositories of Llama 3 keep in original/.
        "path": str(folder / "original" / "tokenizer.model"),
        "max_seq_len": max_length,
    }


def _dataset(start: Start) -> dict[str, Any]:
    rows = {"source": "json", "data_files": str(start.rows), "split": "train"}
    if start.config.method == "cpt":
        kind = {"_component_": "torchtune.datasets.text_completion_dataset", "column": "text"}
        return {**kind, **rows, "packed": start.config.packs}
    return {
        "_component_": "torchtune.datasets.chat_dataset",
        **rows,
        "conversation_column": "messages",
        "conversation_style": "openai",
        "train_on_input": not start.config.assistant_only_loss,
        "packed": start.config.packs,
    }


def _warmup(start: Start) -> int:
    config = start.config
    if config.warmup_steps >= 1:
        return int(config.warmup_steps)
    # Its scheduler takes a number of steps, and we know the rows: we wrote them.
    return round(config.warmup_steps * config.num_train_epochs * start.steps_per_epoch)


def _is_half(start: Start) -> bool:
    return start.config.dtype == "bfloat16" or (start.config.dtype == "auto" and start.has_gpu)


def _varies(start: Start) -> dict[str, Any]:
    kind = "lora" if start.config.peft else "full"
    return {
        "arguments": [
            *("run", f"{kind}_finetune_single_device"),
            *("--config", "{job_directory}/" + SETTINGS),
        ],
        # It writes a folder for each epoch, counted from 0; the last one is the result.
        "output": f"{OUT}/epoch_{int(start.config.num_train_epochs) - 1}",
    }


def _check(config: TrainingConfig) -> None:
    _sizes(Path(config.model).expanduser())


def _other_targets(config: TrainingConfig) -> bool:
    """Whether layers are named that it cannot adapt, or only a part of an MLP."""
    if not isinstance(config.peft, LoraConfig):
        return False
    targets = config.peft.target_modules
    if isinstance(targets, str):
        return asks_for_a_pattern(config)
    return bool(set(targets) - {*ATTENTION, *MLP} or 0 < len(MLP & set(targets)) < len(MLP))


PRESET = Preset(
    name="torchtune",
    program="tune",
    arguments=("run",),
    files=_files,
    translates=LORA
    | {
        *("peft", "peft.use_dora", "num_train_epochs", "per_device_train_batch_size"),
        *("gradient_accumulation_steps", "learning_rate", "lr_scheduler_type", "warmup_steps"),
        *("weight_decay", "max_grad_norm", "optim", "max_length", "packing"),
        *("assistant_only_loss", "gradient_checkpointing", "dtype", "seed", "logging_steps"),
        "eval_on_start",
    },
    command={
        "metrics": [
            rf"^Step (?P<step>\d+) \| loss:(?P<train_loss>{NUMBER})"
            rf"(?:.* lr:(?P<learning_rate>{NUMBER}))?"
            rf"(?:.* tokens_per_second_per_gpu:(?P<tokens_per_second>{NUMBER}))?"
            rf"(?:.* grad_norm:(?P<grad_norm>{NUMBER}))?",
        ],
        # Not what it prints: there the progress bar gets between.
        "metrics_file": f"{OUT}/{METRICS}",
    },
    varies=_varies,
    cannot={
        "num_train_epochs": lambda config: config.num_train_epochs % 1,
        "lr_scheduler_type": lambda config: config.lr_scheduler_type != "cosine",
        "optim": lambda config: config.optim not in OPTIMIZERS,
        "dtype": lambda config: config.dtype == "float16",
        "peft.target_modules": _other_targets,
    },
    check=_check,
)
