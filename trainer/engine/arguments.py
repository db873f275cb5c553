"""Turn a `TrainingConfig` into the arguments of a method's TRL config class."""

from __future__ import annotations

import importlib
from itertools import islice
from typing import Any

from trainer.config import TrainingConfig
from trainer.config.methods import METHODS
from trainer.contract.errors import ConfigError
from trainer.contract.job_directory import JobDirectory
from trainer.engine.deprecations import deprecations_allowed
from trainer.engine.parallelism import parallel_arguments

SAME_NAME = (
    "num_train_epochs",
    "max_steps",
    "per_device_eval_batch_size",
    "lr_scheduler_type",
    "warmup_steps",
    "weight_decay",
    "max_grad_norm",
    "optim",
    "seed",
    "logging_steps",
    "save_steps",
    "report_to",
)
"""Fields that go to transformers as they are."""


def split_batch(batch: int, accumulation: int, divisor: int) -> tuple[int, int]:
    """Return batch and accumulation after memory ran out; their product never changes."""
    return batch // divisor, accumulation * divisor


def class_of_arguments(method: str) -> type[Any]:
    """Return the subclass of `transformers.TrainingArguments` that a method has."""
    module, _, name = METHODS[method].config.partition(":")
    found: type[Any] = getattr(importlib.import_module(module), name)
    return found


def training_arguments(
    config: TrainingConfig,
    directory: JobDirectory,
    *,
    batch_divisor: int = 1,
    **method: Any,
) -> Any:
    """Build the arguments for one run; whatever TRL would choose silently is said here.

    Args:
        config: the job's settings.
        directory: where the run writes.
        batch_divisor: see `Status.batch_divisor`.
        method: what the method adds; the user's `arguments` win over it.

    Raises:
        ConfigError: an entry of `arguments` has a wrong value, or this release lacks it.
    """
    import torch

    config_class = class_of_arguments(config.method)
    batch, accumulation = split_batch(
        config.per_device_train_batch_size, config.gradient_accumulation_steps, batch_divisor
    )
    cuda = torch.cuda.is_available()
    ours = {
        **{name: getattr(config, name) for name in SAME_NAME},
        "output_dir": str(directory.checkpoints),
        "per_device_train_batch_size": batch,
        "gradient_accumulation_steps": accumulation,
        "learning_rate": config.initial_learning_rate,
        "data_seed": config.seed,
        "gradient_checkpointing": config.gradient_checkpointing is True,
        "use_cpu": not cuda,
        "bf16": cuda and precision(config) == "bfloat16",
        "fp16": cuda and precision(config) == "float16",
        "eval_strategy": "no",  # evaluation is ours: trainer.engine.callbacks
        "save_strategy": "steps",
        "save_total_limit": None,  # pruning is ours: trainer.contract.checkpoints
        "logging_strategy": "steps",
        "logging_nan_inf_filter": False,  # else NaN is replaced by the mean of what came before
        "disable_tqdm": True,
        "push_to_hub": False,
        **parallel_arguments(config),
    }
    defaults = {
        # Defaults that the user may override, unlike `ours`, and that a method may.
        "dataloader_pin_memory": cuda,
        # It walks the graph at every step; no method leaves a trained parameter unused.
        "ddp_find_unused_parameters": False,
        **faster_here(config),
    }
    try:
        with deprecations_allowed():
            return config_class(**{**defaults, **method, **ours, **config.arguments})
    except (TypeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"{_field_in(reason, ours)}: {reason}.") from error


def _field_in(reason: str, given: dict[str, Any]) -> str:
    """Return the field that transformers complains of: it names the value, a person the field."""
    named = (name for name, value in given.items() if reason.startswith(f"{value} is not "))
    return ".".join(["training", *islice(named, 1)])


def precision(config: TrainingConfig) -> str:
    """Return the dtype that `auto` stands for on this machine."""
    import torch

    if config.dtype != "auto":
        return config.dtype
    # Older GPUs only emulate it, which is slower than float32.
    has_it = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bfloat16" if has_it else "float32"


def faster_here(config: TrainingConfig) -> dict[str, Any]:
    """Return what this machine does faster at the same result, unless the user says otherwise.

    float32 that is asked for by name stays float32. Liger's kernels are for the models that read
    rows as tokens; TRL's other methods would compute another loss with them.
    """
    import torch
    from transformers.utils import is_liger_kernel_available, is_torch_tf32_available

    if not torch.cuda.is_available():
        return {}
    learns_from_tokens = METHODS[config.method].learns_from_tokens
    return {
        "tf32": is_torch_tf32_available() and config.dtype != "float32",
        "use_liger_kernel": learns_from_tokens and is_liger_kernel_available(),
    }
