"""Rows as people lay them out → one of two things to learn from: a `Chat` or a `PlainText`."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal

from trainer.config import TrainingConfig
from trainer.data.parsing import Row
from trainer.data.turns import RowProblem, a_text, chat_of, kind_of_value, listed
from trainer.errors import DataError

Format = Literal["messages", "conversations", "instruction", "prompt_completion", "text"]

NEEDED: dict[Format, tuple[str, ...]] = {
    "messages": ("messages",),
    "conversations": ("conversations",),
    "instruction": ("instruction", "output"),
    "prompt_completion": ("prompt", "completion"),
    "text": ("text",),
}
"""The columns that a format cannot do without, in the order in which formats are told."""
OUR_COLUMNS = (*(column for columns in NEEDED.values() for column in columns), "input")


@dataclass(frozen=True)
class Chat:
    """A conversation; the assistant's turns are what is learnt."""

    messages: list[dict[str, Any]]
    """Each with `role` and `content` (text), and what else the row gave, such as tool_calls."""

    @property
    def characters(self) -> int:
        """Length of all contents."""
        return sum(len(message.get("content", "")) for message in self.messages)


@dataclass(frozen=True)
class PlainText:
    """A completion, after a prompt that may be empty."""

    prompt: str
    completion: str

    @property
    def characters(self) -> int:
        """Length of both texts."""
        return len(self.prompt) + len(self.completion)


@dataclass(frozen=True)
class Schema:
    """How the rows of one dataset are laid out."""

    format: Format
    columns: dict[str, str]
    """The dataset's names for the columns, by ours, where they differ."""

    def convert(self, row: dict[str, Any]) -> Chat | PlainText:
        """Return what there is to learn from `row`.

        Raises:
            RowProblem: naming the field, what is wrong with it, and the remedy.
        """
        match self.format:
            case "messages" | "conversations":
                field = self._name(self.format)
                return Chat(chat_of(self._get(row, self.format), field))
            case "instruction":
                return self._instruction(row)
            case "prompt_completion":
                return self._prompt_completion(row)
            case "text":
                return PlainText("", self._text(row, "text"))

    def _instruction(self, row: dict[str, Any]) -> Chat:
        question = self._text(row, "instruction")
        # Many datasets leave `input` empty or out where the instruction says it all.
        if row.get(self._name("input")) not in (None, ""):
            question = f"{question}\n\n{self._text(row, 'input')}"
        answer = self._text(row, "output")
        return Chat(
            [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        )

    def _prompt_completion(self, row: dict[str, Any]) -> Chat | PlainText:
        prompt, completion = self._get(row, "prompt"), self._get(row, "completion")
        if isinstance(prompt, list) != isinstance(completion, list):
            raise RowProblem(
                self._name("completion"),
                f"is {kind_of_value(completion)} where the prompt is {kind_of_value(prompt)}",
                "give two texts, or two lists of messages",
            )
        if isinstance(prompt, list):
            question = chat_of(prompt, self._name("prompt"), answered=False)
            return Chat(question + chat_of(completion, self._name("completion")))
        return PlainText(self._text(row, "prompt"), self._text(row, "completion"))

    def _name(self, column: str) -> str:
        return self.columns.get(column, column)

    def _get(self, row: dict[str, Any], column: str) -> Any:
        name = self._name(column)
        if name not in row:
            raise RowProblem(name, "is missing", f"add it; the row has {listed(row)}")
        return row[name]

    def _text(self, row: dict[str, Any], column: str) -> str:
        return a_text(self._get(row, column), self._name(column))


def choose_schema(first: Row, config: TrainingConfig) -> Schema:
    """Return how the dataset is laid out: as the config says, or as its first row shows.

    Raises:
        DataError: the columns fit no format, or none that the method can learn from.
    """
    dataset = config.dataset
    unknown = sorted(set(dataset.columns) - set(OUR_COLUMNS))
    if unknown:
        raise DataError(
            f"dataset.columns: {listed(unknown)} is no column of ours.",
            f"There are: {', '.join(OUR_COLUMNS)}; yours stand on the right of the colon.",
        )
    renamed = {ours for ours, theirs in dataset.columns.items() if theirs in first.value}
    columns = renamed | set(first.value)
    if config.method == "cpt":
        return _plain_schema(columns, first, config)
    if dataset.format != "auto":
        return Schema(dataset.format, dataset.columns)
    found = _told_from(columns)
    if found is None:
        raise DataError(
            f"{first.place}: the columns {listed(first.value)} fit no format.",
            "Name yours for one of these sets in dataset.columns: "
            f"{'; '.join(' and '.join(needed) for needed in NEEDED.values())}.",
        )
    return Schema(found, dataset.columns)


def _plain_schema(columns: Collection[str], first: Row, config: TrainingConfig) -> Schema:
    """Continued pretraining reads text, whatever other columns stand beside it."""
    given = config.dataset.format
    if given == "text" or (given == "auto" and "text" in columns):
        return Schema("text", config.dataset.columns)
    found = given if given != "auto" else _told_from(columns)
    remedy = "Use method: sft, or name a column: dataset.columns: {text: yours}."
    if found is None:
        raise DataError(
            f"{first.place}: cpt trains on plain text, and there is no column 'text' among "
            f"{listed(first.value)}.",
            remedy,
        )
    raise DataError(f"cpt trains on plain text, and these rows are {found!r}.", remedy)


def _told_from(columns: Collection[str]) -> Format | None:
    return next(
        (name for name, needed in NEEDED.items() if all(one in columns for one in needed)), None
    )
