"""Rows as people lay them out → what there is to learn from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from trainer.config import TrainingConfig
from trainer.config.dataset import Format
from trainer.config.methods import METHODS
from trainer.contract.errors import DataError
from trainer.data.columns import ANSWERS, QUESTIONS, Ambiguous, Columns
from trainer.data.judged import Judged, Preference, Prompt, judged, preference, question
from trainer.data.parsing import Row
from trainer.data.turns import RowProblem, a_text, chat_of, kind_of_value, listed

NEEDED: dict[Format, tuple[str, ...]] = {
    "messages": ("messages",),
    "conversations": ("conversations",),
    "instruction": ("instruction", "output"),
    "prompt_completion": ("prompt", "completion"),
    "text": ("text",),
    "preference": ("chosen", "rejected"),
    "unpaired": ("prompt", "completion", "label"),
    "prompts": ("prompt",),
}
"""The columns that a format cannot do without."""
OUR_COLUMNS = tuple(
    dict.fromkeys([*(column for columns in NEEDED.values() for column in columns), "input"])
)


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


Example = Chat | PlainText | Preference | Judged | Prompt


@dataclass(frozen=True)
class Schema:
    """How the rows of one dataset are laid out."""

    format: Format
    columns: dict[str, str]
    """The dataset's names for the columns, by ours, where they differ."""

    def convert(self, row: dict[str, Any]) -> Example:
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
            case "preference":
                prompt = row.get(self._name("prompt"))
                answers = self._get(row, "chosen"), self._get(row, "rejected")
                return preference(prompt, *answers, self._names("prompt", *NEEDED["preference"]))
            case "unpaired":
                names = NEEDED["unpaired"]
                prompt, answer, label = (self._get(row, column) for column in names)
                return judged(prompt, answer, label, self._names(*names))
            case "prompts":
                # Kept for the reward functions, which get every other column.
                others = {k: v for k, v in row.items() if k != self._name("prompt")}
                return Prompt(question(self._get(row, "prompt"), self._name("prompt")), others)

    def _instruction(self, row: dict[str, Any]) -> Chat:
        question = self._text(row, "instruction")
        # Many datasets leave `input` empty or out where the instruction says it all.
        # One column of theirs may stand for both in dataset.columns.
        is_apart = self._name("input") != self._name("instruction")
        if is_apart and row.get(self._name("input")) not in (None, ""):
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

    def _names(self, *columns: str) -> tuple[str, str, str]:
        return cast("tuple[str, str, str]", tuple(self._name(column) for column in columns))

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
    # The usual mistake is to write the pair the wrong way round.
    unknown = sorted(set(dataset.columns) - set(OUR_COLUMNS))
    if unknown:
        raise DataError(
            f"dataset.columns: {listed(unknown)} is not a known column.",
            f"There are: {', '.join(OUR_COLUMNS)}; yours stand on the right of the colon.",
        )
    formats = METHODS[config.method].formats
    columns = Columns(first.value, dataset.columns)
    wanted = formats if dataset.format == "auto" else (dataset.format,)
    try:
        given, names = _told_from(columns, wanted)
    except Ambiguous as error:
        raise DataError(
            f"{first.place}: {error}; the columns are {listed(first.value)}.",
            f"Say which in dataset.columns, such as {{{_example(formats)}}}.",
        ) from None
    if dataset.format != "auto":
        given = dataset.format
    if given in formats:
        return Schema(cast("Format", given), {**names, **dataset.columns})
    raise _unfit(first, config, given or _exactly(first, tuple(NEEDED)))


def _example(formats: Sequence[str]) -> str:
    layout = "instruction" if "instruction" in formats else formats[0]
    return ", ".join(f"{ours}: yours" for ours in NEEDED[cast("Format", layout)])


def _unfit(first: Row, config: TrainingConfig, found: str | None) -> DataError:
    """Return the error that says what the rows are, and what the method learns from."""
    formats = METHODS[config.method].formats
    sets = "; ".join(" and ".join(NEEDED[cast("Format", name)]) for name in formats)
    others = sorted(name for name, method in METHODS.items() if found in method.formats)
    if found is None or found in formats or not others:
        return DataError(
            f"{first.place}: {config.method} finds none of its formats in the columns "
            f"{listed(first.value)}.",
            f"Name yours for one of these sets in dataset.columns: {sets}.{_known(formats)}",
        )
    return DataError(
        f"{config.method} learns from {' or '.join(formats)}, and these rows are {found!r}.",
        f"Use method: {' or '.join(others)}, or name columns in dataset.columns: {sets}.",
    )


def _known(formats: Sequence[str]) -> str:
    if "instruction" not in formats:
        return ""
    return (
        f" A question ({', '.join(QUESTIONS)}) and an answer ({', '.join(ANSWERS)}) are known too."
    )


def _told_from(columns: Columns, formats: Sequence[str]) -> tuple[str | None, dict[str, str]]:
    """Return the first layout that fits, by our names before others, and the dataset's names."""
    # Our own names first in all layouts: {prompt, completion} must not be taken for a question and
    # an answer by the names that others use.
    for usual in (False, True):
        for name in formats:
            found = columns.of(name, NEEDED[cast("Format", name)], usual=usual)
            if found is not None:
                return name, found
    return None, {}


def _exactly(first: Row, formats: Sequence[str]) -> str | None:
    return next(
        (
            name
            for name in formats
            if all(one in first.value for one in NEEDED[cast("Format", name)])
        ),
        None,
    )
