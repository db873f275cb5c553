"""Texts with labels: what classification learns from."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from trainer.data.json_text import loads
from trainer.data.problems import RowProblem, a_text, kind_of_value, short
from trainer.data.turns import WEIGHTS, Message

LONGEST_LABEL = 200  # characters; a longer one is a text in the wrong column


@dataclass(frozen=True)
class Labelled:
    """A text, two that belong together, or a chat; and what it is."""

    texts: tuple[str, ...]
    """One or two; none where it is a chat."""
    labels: tuple[str, ...]
    """One; of a row whose label is a list, as many as there are."""
    is_list: bool = False
    """Whether the row's label is a list, so that several classes may fit."""
    messages: list[Message] = field(default_factory=list)
    tools: list[dict[str, Any]] = field(default_factory=list)

    @property
    def characters(self) -> int:
        """Length of all texts."""
        return sum(map(len, self.texts)) + sum(len(m.get("content", "")) for m in self.messages)


def labels_of(value: Any, name: str) -> tuple[tuple[str, ...], bool]:
    """Return a row's labels as texts, and whether they were a list.

    Raises:
        RowProblem: one is no name of a class.
    """
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = _listed_in(value, name)  # as tables hold lists
    if isinstance(value, list | tuple):
        found = [_label(each, f"{name}[{i}]") for i, each in enumerate(value)]
        # Labels are hashable by now; True and 1.0 are 1, too.
        if set(value) <= {0, 1} and len(set(found)) < len(found):
            raise RowProblem(
                name,
                f"is {short(list(value))}, a 0 or 1 for each of {len(value)} classes",
                "give the names or numbers of those that fit",
            )
        return tuple(dict.fromkeys(found)), True
    return (_label(value, name),), False


def _listed_in(text: str, name: str) -> Any:
    """Return the list that a text holds as JSON; the text, such as [other], where it is none.

    Raises:
        RowProblem: it is a list as Python prints it.
    """
    try:
        found = loads(text)
    except (ValueError, RecursionError):
        if re.match(r"\s*\[\s*(['\"]|\d|\])", text) and text.rstrip().endswith("]"):
            raise RowProblem(
                name, f"is {short(text)}, a list that is not JSON", 'write it as ["a", "b"]'
            ) from None
        return text
    return found if isinstance(found, list) else text


def _label(value: Any, name: str) -> str:
    # 1, 1.0 and "1" are one class: tables turn whole numbers into decimals where one is missing.
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        if not value.is_integer():
            raise RowProblem(
                name,
                f"is {short(value)}",
                "give the name or whole number of a class, not an amount",
            )
        return str(int(value))
    if not isinstance(value, str):
        raise RowProblem(name, f"is {kind_of_value(value)}", "give the name or number of a class")
    label = a_text(value, name).strip()
    if len(label) > LONGEST_LABEL:
        raise RowProblem(
            name,
            f"has {len(label):,} characters",
            "name the column of the classes in dataset.columns: {label: yours}",
        )
    return label


def name_of(value: Any, names: Sequence[str]) -> Any:
    """Return the name of a class for its number; -1, which stands for none, becomes None."""
    if type(value) is not int:
        return value
    return names[value] if 0 <= value < len(names) else None


def in_order(labels: Any) -> list[str]:
    """Return labels in the order of the model's scores: by number where all are numbers."""
    found = [str(label) for label in labels]
    if all(label.removeprefix("-").isdecimal() for label in found):
        return sorted(found, key=int)
    return sorted(found)


def plain(messages: list[Message]) -> list[Message]:
    """Return messages without weights: a chat is classified as a whole."""
    return [{k: v for k, v in message.items() if k != WEIGHTS[0]} for message in messages]
