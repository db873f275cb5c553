"""What a model cannot take: tokens that it has no embedding for, and rows with more than it has places."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from trainer.config import TrainingConfig
from trainer.config.methods import METHODS
from trainer.contract.errors import ConfigError
from trainer.engine.attention import without_adapters
from trainer.engine.vocabulary import check_tokens, tables_of

if TYPE_CHECKING:
    from torch import nn
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

PLACES = ("max_position_embeddings", "n_positions", "max_seq_len", "max_target_positions")
"""What configs call the number of positions."""
WHOLE = {"mpt"}
"""Models that add to their attention what is made for as many positions, and no more."""
SPARE = 8
"""Rows that a table of positions may have beside them, such as one for padding."""


def check_limits(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    config: TrainingConfig,
    facts: Mapping[str, Any],
) -> list[str]:
    """Refuse rows that the model cannot take; return what is to be known of others.

    Args:
        model: with or without adapters; without storage will do.
        tokenizer: as the rows were tokenised.
        config: the job's settings.
        facts: of the rows: see `trainer.data.tokenization.PreparedData`.

    Raises:
        ConfigError: naming the token or the length, and the remedy.
    """
    held_out = facts.get("evaluation") or {}
    highest, longest = (max(facts[name], held_out.get(name, 0)) for name in ("highest", "longest"))
    check_tokens(model, tokenizer, highest, config)
    length = longest_sequence(config, longest) + getattr(config.peft, "num_virtual_tokens", 0)
    base = without_adapters(model)
    places = places_of(base)
    if places is not None and length > places:
        raise ConfigError(
            f"training.max_length = {config.max_length}: rows have up to {length:,} tokens, and "
            f"{config.model} has {places:,} positions.",
            f"Set max_length: {places - length + longest_sequence(config, longest)}.",
        )
    known = known_length(base.config)
    if known is not None and length > known:
        return [
            f"Rows have up to {length:,} tokens, and {config.model} knows texts of up to {known:,}: set "
            f"max_length: {known}, or let its config stretch them (rope_parameters)."
        ]
    return []


def longest_sequence(config: TrainingConfig, longest: int) -> int:
    """Return how many tokens the longest sequence has.

    Args:
        config: the job's settings.
        longest: tokens of the longest row, or prompt.
    """
    if METHODS[config.method].generates:
        return min(longest + config.max_completion_length, config.max_length)
    return config.max_length if config.packs else min(longest, config.max_length)


def places_of(model: PreTrainedModel) -> int | None:
    """Return for how many positions there is a row in a table; None: they are computed."""
    named = _number(model.config)
    if named is None:
        return None
    if model.config.model_type in WHOLE:
        return named
    tokens, _ = tables_of(model)
    tables = (module for module in model.modules() if module is not tokens)
    found = [places for table in tables if (places := _places_in(table, named)) is not None]
    found += [
        len(buffer)
        for name, buffer in model.named_buffers()
        # As GPT-J holds its sines and cosines.
        if buffer.dim() > 1 and len(buffer) == named and "pos" in name
    ]
    return min(found, default=None)


def _places_in(table: nn.Module, named: int) -> int | None:
    from torch import nn

    if not isinstance(table, nn.Embedding) or not named <= table.num_embeddings <= named + SPARE:
        return None
    # RoBERTa counts on from its padding, OPT has rows before the first.
    first = getattr(table, "offset", 0) if table.padding_idx is None else table.padding_idx + 1
    return table.num_embeddings - int(first)


def known_length(architecture: PretrainedConfig) -> int | None:
    """Return the longest text that the model was made for; None where its config does not say."""
    named = _number(architecture)
    rope = getattr(architecture.get_text_config(), "rope_parameters", None) or {}
    # Those of models with several kinds of layers stand one level deeper.
    kinds = [value for value in rope.values() if isinstance(value, dict)] or [rope]
    stretched = [
        float(kind["factor"]) * float(kind["original_max_position_embeddings"])
        for kind in kinds
        if kind.get("factor") and kind.get("original_max_position_embeddings")
    ]
    is_dynamic = any(kind.get("rope_type") in {"dynamic", "linear"} for kind in kinds)
    if named is None or is_dynamic:
        return None
    return max([named, *map(int, stretched)])


def _number(architecture: PretrainedConfig) -> int | None:
    text = architecture.get_text_config()
    named = (getattr(text, name, None) for name in PLACES)
    return next((int(value) for value in named if isinstance(value, int) and value > 0), None)
