"""Merge an adapter onto its base model, in full precision, in main memory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.config import TrainingConfig
from trainer.config.methods import METHODS
from trainer.contract.errors import ConfigError
from trainer.engine.deprecations import deprecations_allowed
from trainer.engine.loading import loaded
from trainer.engine.model import class_of, classifier_options, give_rows, load_architecture

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SHARD = "5GB"  # the largest file; a download goes on after a cut, but a hash covers a whole file


def refuse_quantised_base(config: TrainingConfig) -> None:
    """Refuse to merge where the base model's own weights are quantised.

    Raises:
        ConfigError: they are: what is merged into them is rounded away.
        ModelNotFound: the model's config cannot be read.
    """
    if not needs_merging(config):
        return
    if getattr(load_architecture(config), "quantization_config", None):
        field = "merge" if config.merge else "export"
        raise ConfigError(
            f"training.{field}: the weights of {config.model} are quantised themselves, and a "
            "merged adapter would be rounded away.",
            f"Name the unquantised model it was made of as training.model, or leave {field} out.",
        )


def needs_merging(config: TrainingConfig) -> bool:
    """Whether the job asks for something that is made of merged weights."""
    return config.peft is not None and bool(config.merge or config.export)


def let_go(trainer: Any) -> None:
    """Free the weights, gradients and optimizer of a trainer, which is unusable afterwards."""
    import torch

    # Before the merged model is loaded: both at once may not fit into memory.
    trainer.optimizer = trainer.lr_scheduler = None
    trainer.accelerator.free_memory()
    for parameter in trainer.model.parameters():
        # Callbacks and closures may still refer to the model, so its memory is taken from it rather
        # than waiting for the last reference to go.
        parameter.grad = None
        if type(parameter.data) is torch.Tensor:  # a sharded model's share may stay
            parameter.data = torch.empty(0, dtype=parameter.dtype)
    trainer.accelerator.free_memory()  # collects garbage, and gives it back to the GPU


def write_merged(
    config: TrainingConfig, adapter: Path, target: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Load the base anew as its checkpoint has it, merge, and write a plain model.

    The model in memory is not the one merged: it may be quantised, or rounded to the GPU's
    precision. It is done on the CPU, where there is room for the model once.

    Args:
        config: the job's settings, with the model where it lies.
        adapter: the folder of the trained adapter.
        target: where the model goes, in shards.
        tokenizer: as used.
    """
    import peft

    method = METHODS[config.method]
    kind = class_of(config)
    base = loaded(kind.from_pretrained, config, dtype="auto", **classifier_options(config))
    give_rows(base, config)  # the adapter's own take their place
    with deprecations_allowed():
        # safe_merge looks for NaN in what it merges, and raises instead of writing it.
        merged = peft.PeftModel.from_pretrained(base, adapter).merge_and_unload(safe_merge=True)
    if method.is_classifier:  # the score is that of the last token before the padding
        merged.config.pad_token_id = tokenizer.pad_token_id
    merged.save_pretrained(target, max_shard_size=SHARD)
    tokenizer.save_pretrained(target)
