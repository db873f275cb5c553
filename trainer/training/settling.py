"""What the tokenised rows settle: which classes are learned, and that nothing stands for a picture."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from trainer.config import TrainingConfig
from trainer.config.adapter_files import SCORES, classes_of
from trainer.config.methods import METHODS, SEEING_MODEL
from trainer.contract.errors import ConfigError, DataError
from trainer.data.classes import check_classes, refuse_unknown
from trainer.data.labelled import in_order
from trainer.data.problems import listed
from trainer.data.turns import ONLY_TEXT
from trainer.engine.going_on import adapter_task
from trainer.engine.model import class_of, load_architecture
from trainer.engine.stream import Stream
from trainer.engine.vocabulary import extend

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from trainer.data.tokenization import PreparedData

PLACEHOLDER = re.compile(r"(image|video|audio|vision\w*)_token_(id|index)")
"""What configs call such tokens."""


def settled(config: TrainingConfig, data: PreparedData) -> TrainingConfig:
    """Return the config with what it leaves to the rows.

    Raises:
        DataError: the rows have other classes than they should, or one alone; or tokens that stand for
            what only a picture could fill.
        ConfigError: the model is a classifier of other classes.
    """
    refuse_placeholders(config, data)
    return with_classes(config, data.facts)


def sees(config: TrainingConfig) -> bool:
    """Whether the model is one that sees, and no causal one to transformers."""
    return bool(class_of(config).__name__ == SEEING_MODEL)


def refuse_placeholders(config: TrainingConfig, data: PreparedData) -> None:
    """Refuse tokens in whose place a model that sees or hears puts what it sees or hears.

    Raises:
        DataError: naming how many rows have one.
    """
    architecture = load_architecture(config)
    known = vars(architecture)
    wanted = pa.array(
        [known[name] for name in known if PLACEHOLDER.fullmatch(name) and type(known[name]) is int],
        pa.int32(),
    )
    # Rows of a stream are seen as they are learned.
    if isinstance(data.train, Stream) or not len(wanted):
        return
    for table in _tokens(data.train):
        rows = sum(
            len(pc.unique(pc.list_parent_indices(chunk).filter(pc.is_in(chunk.flatten(), wanted))))
            for chunk in table.chunks
        )
        if rows:
            raise DataError(
                f"{config.dataset.path}: {rows} row{'' if rows == 1 else 's'} "
                f"hold{'s' if rows == 1 else ''} a token that stands for a picture, a film or a "
                f"sound, and {ONLY_TEXT}.",
                "Take such tokens out of the texts, or remove the rows.",
            )


def unlearned(
    config: TrainingConfig, data: PreparedData, tokenizer: PreTrainedTokenizerBase
) -> list[str]:
    """Return sentences about what the job names and no row to train on has."""
    return [*_unlearned_classes(config, data), *_unlearned_tokens(config, data, tokenizer)]


def _unlearned_classes(config: TrainingConfig, data: PreparedData) -> list[str]:
    # A class may have been held out with all of its rows.
    if not METHODS[config.method].has_classes:
        return []
    seen = {label for labels in data.train["label"] for label in labels}
    missing = [label for label in config.labels or [] if label not in seen]
    if not missing:
        return []
    return [f"training.labels: no row to train on has {listed(missing)}, so it is not learned."]


def _unlearned_tokens(
    config: TrainingConfig, data: PreparedData, tokenizer: PreTrainedTokenizerBase
) -> list[str]:
    if (
        isinstance(data.train, Stream)
        or not config.new_tokens
        or not (tables := _tokens(data.train))
    ):
        return []
    # Of tokens that the tokenizer has learned already this finds the ids, and adds nothing.
    ids = pa.array(extend(tokenizer, config.new_tokens).named, pa.int32())
    seen: set[int] = set()
    for chunk in (chunk for table in tables for chunk in table.chunks):
        tokens = chunk.flatten()
        seen.update(pc.unique(tokens.filter(pc.is_in(tokens, ids))).to_pylist())
    missing = [
        name
        for name, number in zip(config.new_tokens, ids.to_pylist(), strict=True)
        if number not in seen
    ]
    if not missing:
        return []
    return [f"training.new_tokens: no row has {listed(missing)}, so nothing is learned of it."]


def _tokens(rows: Any) -> list[Any]:
    """Return the columns of tokens of a `Dataset`."""
    names = (name for name in rows.column_names if name.endswith("_ids"))
    return [rows.data.column(name) for name in names]


def with_classes(config: TrainingConfig, facts: Mapping[str, Any]) -> TrainingConfig:
    """Return the config with the classes that a job leaves to its rows or its model.

    Args:
        config: the job's settings.
        facts: of the data: see `trainer.data.tokenization.PreparedData`.

    Raises:
        DataError: the rows have other classes, or one alone.
        ConfigError: the model is a classifier of other classes.
    """
    if not METHODS[config.method].has_classes:
        return config
    found, evaluation = facts["labels"], facts.get("evaluation") or {}
    check_classes(config, found, facts["kept"], evaluation.get("labels"))
    own, together = _own_classes(config)
    who = str(config.adapter or config.model)
    if own and config.labels and own != config.labels:
        raise ConfigError(
            f"training.labels: {who} is a classifier of {', '.join(own)}, in this order.",
            "Leave labels out, or start from a model that is no classifier yet.",
        )
    if own:
        refuse_unknown(found, own, f"{who} is a classifier of")
    labels = config.labels or own or in_order(found)
    lists = bool(facts["several"] or evaluation.get("several"))
    usual = lists if together is None else together
    several = usual if config.several_labels is None else config.several_labels
    if together is not None and several != together:
        raise ConfigError(
            f"training.several_labels: {who} was trained on "
            f"{'several classes' if together else 'one class'} a row.",
            "Leave it out, or start a new adapter.",
        )
    if lists and not several:
        raise ConfigError(
            "training.several_labels: false, and labels of rows are lists.", "Remove it."
        )
    if several and config.class_weights:
        raise ConfigError(
            "training.class_weights: rows have several labels, and each class is learned apart.",
            "Leave class_weights out.",
        )
    return config.model_copy(update={"labels": labels, "several_labels": several})


def _own_classes(config: TrainingConfig) -> tuple[list[str], bool | None]:
    """Return the classes of what is a classifier already, and whether several fit, where it says so.

    No classes: neither the adapter that is gone on with nor the model is one.

    Raises:
        ConfigError: its classes have no names, and the job does not give them.
    """
    if config.adapter is not None:
        labels, several = classes_of(str(config.adapter))
        if labels is not None:
            return labels, several
        if adapter_task(config) == SCORES and config.labels is None:
            raise ConfigError(
                f"training.labels: {config.adapter} is an adapter of classes without names.",
                "Name them in the order of its scores, as the manifest of its artifact has them.",
            )
    plain = config.model_copy(update={"labels": None})
    architecture = load_architecture(plain)
    kinds = architecture.architectures or []
    if config.init == "random" or not any("SequenceClassification" in kind for kind in kinds):
        return [], None
    names = [str(architecture.id2label[i]) for i in range(architecture.num_labels)]
    if names != [f"LABEL_{i}" for i in range(len(names))]:
        return names, None
    if config.labels is None or len(config.labels) != len(names):
        raise ConfigError(
            f"training.labels: {config.model} is a classifier of {len(names)} classes without names.",
            "Name them in the order of its scores, or start from a model that is no classifier yet.",
        )
    return list(config.labels), None


def found_in_rows(config: TrainingConfig) -> dict[str, Any]:
    """Return the fields that `with_classes` has set."""
    return {"labels": config.labels, "several_labels": config.several_labels}
