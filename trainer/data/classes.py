"""Which classes there are: those that the job names, or those of the rows."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from decimal import Decimal

from trainer.config import TrainingConfig
from trainer.contract.errors import ConfigError, DataError
from trainer.contract.words import number
from trainer.data.labelled import in_order
from trainer.data.problems import listed, short

SHOWN = 8  # labels that are named in a sentence


def check_classes(
    config: TrainingConfig,
    labels: Mapping[str, int],
    rows: int,
    held_out: Collection[str] | None = None,
) -> None:
    """Refuse labels among which there is nothing to tell apart, or that the job does not name.

    Args:
        config: the job's settings.
        labels: how many rows to train on have each.
        rows: how many there are.
        held_out: those of the rows to evaluate on, where they stand apart.

    Raises:
        DataError: they are too few, or the rows to evaluate on have others.
        ConfigError: a class that the job names is not among them.
    """
    if len(labels) < 2 and not (config.labels and labels):
        what = (
            f"every row has the label {short(next(iter(labels)))}" if labels else "no row has one"
        )
        raise DataError(
            f"{config.dataset.path}: {what}, so there is nothing to tell apart.",
            "Add rows with another label.",
        )
    if len(labels) > 1 and set(labels.values()) == {rows}:
        raise DataError(
            f"{config.dataset.path}: every row has all the labels {listed(labels)}, so there is nothing "
            "to tell apart.",
            "Give each row the names of the classes that fit it, not a 0 or 1 for every class.",
        )
    _refuse_two_spellings(config.dataset.path, labels)
    known = config.labels or list(labels)
    refuse_unknown(labels, known, "training.labels has")
    unseen = [label for label in held_out or () if label not in known]
    if unseen:
        raise DataError(
            f"{config.dataset.eval_path or config.dataset.path}: the rows to evaluate on have the "
            f"label {listed(unseen)}, which no row to train on has.",
            "Correct it, or add rows with it to those that are trained on.",
        )
    weights = config.class_weights if isinstance(config.class_weights, dict) else {}
    if wrong := [name for name in weights if name not in known]:
        raise ConfigError(
            f"training.class_weights: no row has the label {listed(wrong)}; there are "
            f"{listed(known)}."
        )


def _refuse_two_spellings(name: str, labels: Collection[str]) -> None:
    """Refuse a number that rows write in two ways, as tables do where one had no label.

    Raises:
        DataError: naming both.
    """
    seen: dict[Decimal, str] = {}
    for label in labels:
        if re.fullmatch(r"-?\d+(\.\d*)?", label, re.ASCII):
            other = seen.setdefault(Decimal(label), label)
            if other != label:
                raise DataError(
                    f"{name}: the labels {listed([other, label])} are one number, written in two ways.",
                    "Write it in one way in all rows; or give the classes names, if two are meant.",
                )


def refuse_unknown(labels: Mapping[str, int], known: Sequence[str], who: str) -> None:
    """Refuse labels that are none of the known ones.

    Raises:
        DataError: naming them and the number of their rows.
    """
    unknown = [label for label in in_order(labels) if label not in known]
    if unknown:
        rows = sum(labels[label] for label in unknown)
        raise DataError(
            f"{number(rows)} rows have the label {listed(unknown)}; {who} {listed(known)}.",
            "Correct the rows, or set training.labels to the labels of the rows.",
        )


def in_words(labels: Mapping[str, int]) -> str:
    """Return how many rows each label has, in a few words."""
    shown = [f"{label} ({number(count)})" for label, count in list(labels.items())[:SHOWN]]
    more = [f"{number(len(labels) - SHOWN)} more"] if len(labels) > SHOWN else []
    return f"{number(len(labels))} labels: {', '.join([*shown, *more])}"
