"""Rows that judge answers, or only ask: what preference and reinforcement learning learn from."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

from trainer.data.turns import RowProblem, a_text, chat_of, kind_of_value

Said = str | list[dict[str, Any]]
"""A text, or messages with `role` and `content`."""


@dataclass(frozen=True)
class Preference:
    """A better and a worse answer to the same prompt."""

    prompt: Said
    chosen: Said
    rejected: Said

    @property
    def characters(self) -> int:
        """Length of the prompt and the longer answer."""
        return length(self.prompt) + max(length(self.chosen), length(self.rejected))


@dataclass(frozen=True)
class Judged:
    """One answer, and whether it is a good one."""

    prompt: Said
    completion: Said
    label: bool

    @property
    def characters(self) -> int:
        """Length of prompt and answer."""
        return length(self.prompt) + length(self.completion)


@dataclass(frozen=True)
class Prompt:
    """What the model is to answer by itself."""

    prompt: Said
    others: dict[str, Any] = field(default_factory=dict)
    """The row's further columns, for reward functions."""

    @property
    def characters(self) -> int:
        """Length of the prompt."""
        return length(self.prompt)


def length(said: Said) -> int:
    """Return the number of characters of a text or of all contents."""
    if isinstance(said, str):
        return len(said)
    return sum(len(message.get("content", "")) for message in said)


def preference(prompt: Any, chosen: Any, rejected: Any, names: tuple[str, str, str]) -> Preference:
    """Return a pair of answers.

    Args:
        prompt: None where the answers begin with it.
        chosen: the better answer.
        rejected: the worse one.
        names: how the dataset calls the three.

    Raises:
        RowProblem: they do not make a pair.
    """
    _same_kind(chosen, rejected, names[2], names[1])
    better, worse = _answer(chosen, names[1]), _answer(rejected, names[2])
    # It would teach nothing, and usually is a mistake in the making of the data.
    if better == worse:
        raise RowProblem(names[2], f"is the same as {names[1]}", "remove the row")
    if prompt is not None:
        _same_kind(prompt, chosen, names[1], names[0])
        return Preference(question(prompt, names[0]), better, worse)
    # Datasets such as hh-rlhf repeat the prompt in both answers and have no column for it.
    shared = _shared(better, worse)
    if not shared or shared in {len(better), len(worse)}:
        raise RowProblem(
            names[2],
            f"and {names[1]} do not begin with one prompt and go on differently",
            "add a column 'prompt'",
        )
    return Preference(better[:shared], better[shared:], worse[shared:])


def _shared(first: Said, second: Said) -> int:
    """Return how many messages both begin with, or how many characters, up to a whole word."""
    count = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False))))
    # Up to a whole word: answers may share the first letters of their first word.
    return first.rfind(" ", 0, count) + 1 if isinstance(first, str) else count


def judged(prompt: Any, completion: Any, label: Any, names: tuple[str, str, str]) -> Judged:
    """Return one answer and its label.

    Raises:
        RowProblem: naming the one of `names` that is not what it should be.
    """
    _same_kind(prompt, completion, names[1], names[0])
    if not isinstance(label, bool):
        # CSV has texts only, and tables often hold 0 and 1.
        label = {"true": True, "false": False, "1": True, "0": False}.get(str(label).lower(), label)
    if not isinstance(label, bool):
        raise RowProblem(names[2], f"is {kind_of_value(label)}", "write true or false")
    return Judged(question(prompt, names[0]), _answer(completion, names[1]), label)


def question(value: Any, name: str) -> Said:
    """Return a prompt.

    Raises:
        RowProblem: it is not a prompt, or ends with an answer.
    """
    if not isinstance(value, list):
        return a_text(value, name)
    messages = _plain(chat_of(value, name, answered=False), name)
    if messages[-1]["role"] == "assistant":
        raise RowProblem(name, "ends with the assistant's turn", "end it with the user's")
    return messages


def _answer(value: Any, name: str) -> Said:
    return _plain(chat_of(value, name), name) if isinstance(value, list) else a_text(value, name)


def _plain(messages: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """Return the messages with role and content alone: TRL's preference methods take no more."""
    for i, message in enumerate(messages):
        if "content" not in message:
            raise RowProblem(f"{name}[{i}]", "calls tools and says nothing", "remove the row")
    return [{"role": each["role"], "content": each["content"]} for each in messages]


def _same_kind(first: Any, second: Any, name: str, other: str) -> None:
    if isinstance(first, list) != isinstance(second, list):
        raise RowProblem(
            name,
            f"is {kind_of_value(second)} where {other} is {kind_of_value(first)}",
            "give texts in both, or lists of messages in both",
        )
