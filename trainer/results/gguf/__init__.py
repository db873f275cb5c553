"""Models as llama.cpp reads them: one GGUF file with weights, config and tokenizer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainer.config import TrainingConfig
from trainer.engine.model import load_architecture
from trainer.results.gguf.architectures import check_architecture, check_export
from trainer.results.gguf.vocabulary import check_vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["check_export", "refuse_export"]


def refuse_export(config: TrainingConfig, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse, before training, what could not be written after it.

    Raises:
        ConfigError: the model's architecture or its tokenizer is not supported.
    """
    if config.export:
        check_architecture(config, load_architecture(config))
        check_vocabulary(tokenizer, config.model)
