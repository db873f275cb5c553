"""New tokens: what the tokenizer learns of them, their rows in the model, and which rows are trained.

A token has a row in the embedding and one in the head, which are the same where the two are tied. A
new one begins as the mean of the others, so that it is neither likelier nor less likely than those.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from trainer.config import TrainingConfig
from trainer.contract.errors import ConfigError
from trainer.engine.attention import without_adapters

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ROWS = "trainable_tokens_delta"
"""What PEFT calls the rows of tokens that are trained."""
UNFIT = (AttributeError, NotImplementedError, TypeError, RuntimeError, ValueError)
"""What transformers raises where an embedding cannot be made larger."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What the tokenizer knows once the new tokens are in it."""

    tokenizer: PreTrainedTokenizerBase
    named: list[int]
    """The ids of `training.new_tokens`, in their order."""
    added: frozenset[int]
    """Those of them that the tokenizer has learned here."""

    @property
    def rows(self) -> int:
        """How many rows a model needs for all tokens."""
        highest: int = max(self.tokenizer.get_vocab().values())
        return highest + 1


def extend(tokenizer: PreTrainedTokenizerBase, names: Sequence[str]) -> Vocabulary:
    """Add to a tokenizer those tokens that it does not read as one already.

    They are seen in what the model writes, but for one with which the chat template ends a turn.

    Raises:
        ConfigError: one cannot be a token.
    """
    from transformers import AddedToken

    named, added = [], set()
    end = _after_turn(tokenizer) if names else ""
    for name in names:
        number = _number(tokenizer, name)
        if number is None:
            # Special are those at which a model stops, and which are left out of its answers.
            is_end = end.startswith(name)
            tokenizer.add_tokens([AddedToken(name, normalized=False, special=is_end)])
            number = _number(tokenizer, name)
            if number is None:
                raise ConfigError(
                    f"training.new_tokens: the tokenizer does not take {name!r} for a token.",
                    "Give it another name, such as <|name|>.",
                )
            added.add(number)
        named.append(number)
    return Vocabulary(tokenizer, named, frozenset(added))


def _after_turn(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return what the chat template puts behind the last word of a turn; empty where it has none."""
    said = "\ue010"  # which no template holds
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": said}]
    try:
        text = str(tokenizer.apply_chat_template(turns, tokenize=False))
    except (TemplateError, TypeError, ValueError, KeyError, IndexError):  # it takes no such chat
        return ""
    return text.rpartition(said)[2].lstrip() if said in text else ""


def _number(tokenizer: PreTrainedTokenizerBase, name: str) -> int | None:
    """Return the id of a text that is read as one token; None where it is not."""
    ids = tokenizer.encode(name, add_special_tokens=False)
    return ids[0] if len(ids) == 1 and ids[0] != tokenizer.unk_token_id else None


def widen(model: PreTrainedModel, vocabulary: Vocabulary, config: TrainingConfig) -> None:
    """Give every token a row in the model, and new ones the mean of the rows before them.

    Raises:
        ConfigError: the model takes no more rows, or there are further tokens without one.
    """
    table, _ = tables_of(model)
    before = 0 if table is None else table.weight.shape[0]
    if not config.new_tokens and vocabulary.rows <= before:
        return
    if table is None:
        raise _cannot(config, "it has no table of them")
    if config.new_tokens:
        _refuse_unnamed(vocabulary, before, config)
    _refuse_other_tables(model, before, config)
    if vocabulary.rows > before:
        try:
            model.resize_token_embeddings(vocabulary.rows, mean_resizing=False)
        except UNFIT as error:
            raise _cannot(config, f"its embedding cannot be made larger ({error})") from error
    # Of a tokenizer that came with an adapter, all tokens beyond the model's are new ones.
    fresh = sorted({*vocabulary.added, *range(before, vocabulary.rows)})
    if fresh and config.init != "random" and model.device.type != "meta":
        for layer in _layers(model):
            _begin_as_mean(layer, fresh)


def _begin_as_mean(layer: nn.Module, fresh: list[int]) -> None:
    """Set rows to the mean of those before the first of them; spare rows lie behind it."""
    import torch

    known, weights, bias = fresh[0], _tensor(layer, "weight"), _tensor(layer, "bias")
    with torch.no_grad():
        # In float32 without a copy of the whole table.
        weights[fresh] = weights[:known].mean(dim=0, dtype=torch.float32).to(weights.dtype)
        if bias is not None:
            bias[fresh] = bias[:known].mean()


def _tensor(layer: nn.Module, name: str) -> Any:
    return getattr(layer, name, None)


def rows_to_train(model: PreTrainedModel, ids: Sequence[int]) -> dict[str, list[int]]:
    """Return which rows of which layers are trained, as PEFT's `trainable_token_indices` has it."""
    names = {id(layer): name for name, layer in model.named_modules()}
    return {names[id(layer)]: list(ids) for layer in _layers(model)}


def check_rows(model: PreTrainedModel, config: TrainingConfig) -> None:
    """Refuse a model of which PEFT would compute something else once it trains rows of tokens.

    Args:
        model: before PEFT has wrapped it.
        config: the job's settings.

    Raises:
        ConfigError: naming the layer.
    """
    from torch import nn

    table, head = model.get_input_embeddings(), model.get_output_embeddings()
    is_plain = type(table).forward is nn.Embedding.forward or hasattr(table, "embed_scale")
    if not isinstance(table, nn.Embedding) or not is_plain:
        raise _cannot(config, f"its embedding is a {type(table).__name__}, which PEFT replaces")
    if head is not None and (type(head) is not nn.Linear or head.bias is not None):
        raise _cannot(config, "its head is more than a product with its weights")


def check_rows_are_trained(model: PreTrainedModel, config: TrainingConfig) -> None:
    """Refuse a model of which PEFT has wrapped the embedding alone, and not the head tied to it.

    Raises:
        ConfigError: naming the model.
    """
    from peft.utils.other import TrainableTokensWrapper

    base = without_adapters(model)
    table, head = base.get_input_embeddings(), base.get_output_embeddings()
    if isinstance(head, TrainableTokensWrapper):
        # TRL asks for it, and PEFT's layer has it only while its adapter is off.
        head.register_parameter("bias", None)
    elif head is not None and (config.new_tokens or head.weight is table.original_module.weight):
        raise _cannot(config, "PEFT does not know that its head and its embedding are one")


def _layers(model: PreTrainedModel) -> list[nn.Module]:
    """Return the embedding, and the head where it has weights of its own."""
    table, head = tables_of(model)
    return [table] if head is None or is_tied(model) else [table, head]


def is_tied(model: PreTrainedModel) -> bool:
    """Whether the embedding and the head have the same weights."""
    table, head = tables_of(model)
    return table is not None and head is not None and head.weight is table.weight


def tables_of(model: PreTrainedModel) -> tuple[Any, Any]:
    """Return the embedding and the head; None for one that is not there, or is no table of tokens."""
    found = []
    for name in ("get_input_embeddings", "get_output_embeddings"):
        try:
            layer = getattr(model, name)()
        except (AttributeError, NotImplementedError):
            layer = None
        weight = getattr(layer, "weight", None)
        found.append(layer if weight is not None and weight.ndim == 2 else None)
    return found[0], found[1]


def _refuse_unnamed(vocabulary: Vocabulary, rows: int, config: TrainingConfig) -> None:
    beyond = tokens_beyond(vocabulary.tokenizer, rows)
    unnamed = [token for token, number in beyond.items() if number not in vocabulary.named]
    if unnamed:
        raise ConfigError(
            f"training.new_tokens: the tokenizer of {config.model} has further tokens for which the "
            f"model has no row, such as {unnamed[0]!r}.",
            f"Name them as well: new_tokens: {_listed([*config.new_tokens, *unnamed])}",
        )


def _refuse_other_tables(model: PreTrainedModel, rows: int, config: TrainingConfig) -> None:
    """Refuse a model that looks tokens up elsewhere too, such as the experts that each is sent to."""
    tables = [layer.weight for layer in tables_of(model) if layer is not None]
    biases = [layer.bias for layer in tables_of(model) if getattr(layer, "bias", None) is not None]
    own = {id(tensor) for tensor in [*tables, *biases]}
    if any(len(table) != rows for table in tables):
        raise _cannot(config, "its head has other rows than its embedding")
    for name, tensor in chain(model.named_parameters(), model.named_buffers()):
        if tensor.ndim and len(tensor) == rows and id(tensor) not in own:
            raise _cannot(config, f"it has a second table of its tokens, {name}")


def tokens_beyond(tokenizer: PreTrainedTokenizerBase, rows: int) -> dict[str, int]:
    """Return the tokens, with their ids, for which a model of so many rows has none."""
    found = ((number, token) for token, number in tokenizer.get_vocab().items() if number >= rows)
    return {token: number for number, token in sorted(found)}


def check_tokens(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, highest: int, config: TrainingConfig
) -> None:
    """Refuse rows with tokens that the model has no embedding for, and pad with one that it has.

    Args:
        model: with or without adapters; without storage will do.
        tokenizer: as the rows were tokenised.
        highest: the highest id in the rows.
        config: the job's settings.

    Raises:
        ConfigError: naming a token and the remedy.
    """
    table, _ = tables_of(model)
    rows = highest + 1 if table is None else table.weight.shape[0]
    if highest >= rows:
        token = tokenizer.convert_ids_to_tokens(highest)
        raise ConfigError(
            f"training.model: {config.model} has {rows:,} embeddings, and the rows need one for "
            f"{token!r}, the tokenizer's token {highest:,}.",
            f"Add what is missing to the model: new_tokens: {_listed(tokens_beyond(tokenizer, rows))}",
        )
    # Padding is masked; but a token without an embedding could not even be looked up.
    if tokenizer.pad_token_id >= rows:
        tokenizer.pad_token = tokenizer.eos_token


def _listed(tokens: Sequence[str] | dict[str, int]) -> str:
    return json.dumps(list(tokens), ensure_ascii=False)


def _cannot(config: TrainingConfig, why: str) -> ConfigError:
    return ConfigError(
        f"training.new_tokens: tokens cannot be added to {config.model} with "
        f"{'adapters' if config.peft else 'all weights'}: {why}.",
        "Set peft: null, which trains the whole embedding, or add them to the model beforehand."
        if config.peft
        else "Add them to the model beforehand.",
    )


def save_rows_alone(model: PreTrainedModel) -> None:
    """Save the rows that are trained, and not the whole table beside them.

    PEFT saves it where the base has fewer rows than the model. All new ones are trained, and
    whoever loads the adapter gives the base as many.
    """
    model.save_pretrained = partial(model.save_pretrained, save_embedding_layers=False)
