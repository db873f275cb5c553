"""Rows as people lay them out → what there is to learn from them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, cast

from trainer.config import TrainingConfig
from trainer.config.dataset import Format
from trainer.config.methods import METHODS
from trainer.contract.errors import DataError
from trainer.data.columns import ANSWERS, QUESTIONS, Ambiguous, Columns
from trainer.data.context import NAMES as CONTEXT
from trainer.data.context import Context, columns_of, context_of, refuse_media
from trainer.data.judged import (
    Asking,
    Judged,
    Preference,
    Prompt,
    completed,
    judged,
    preference,
    question,
)
from trainer.data.labelled import Labelled, labels_of, plain
from trainer.data.parsing import OF_TURNS, Row
from trainer.data.problems import RowProblem, a_text, listed
from trainer.data.turns import ROLES, Message, chat_of, weighed
from trainer.data.weights import WEIGHT, refuse_weight, weight_of

NEEDED: dict[Format, tuple[str, ...]] = {
    "messages": ("messages",),
    "conversations": ("conversations",),
    "instruction": ("instruction", "output"),
    "prompt_completion": ("prompt", "completion"),
    "text": ("text",),
    "preference": ("chosen", "rejected"),
    "unpaired": ("prompt", "completion", "label"),
    "prompts": ("prompt",),
    "labelled_pair": ("text_a", "text_b", "label"),
    "labelled_chat": ("messages", "label"),
    "labelled_text": ("text", "label"),
}
"""The columns that a format cannot do without."""
OUR_COLUMNS = tuple(
    dict.fromkeys([*(c for columns in NEEDED.values() for c in columns), "input", *CONTEXT, WEIGHT])
)
OF_TOKENS = ("messages", "conversations", "instruction", "prompt_completion", "text")
"""The formats that are learned token by token."""
ALONE = ("text", "labelled_text", "labelled_pair")
"""Formats of texts alone: what every chat may have has no place there."""
OF_REWARDS = frozenset(
    {
        *("prompts", "completions", "completion", "completion_ids"),
        *("trainer_state", "log_extra", "log_metric", "environments"),
    }
)
"""Names of columns that would not get to reward functions, for TRL gives others by them or drops them."""
OPTIONAL: dict[Format, tuple[str, ...]] = {"instruction": ("input",), "preference": ("prompt",)}
"""The columns that a format reads where they are there."""


@dataclass(frozen=True)
class Chat:
    """A conversation; the assistant's turns are what is learnt."""

    messages: list[Message]
    """Each with `role` and `content` (text), and what else the row gave, such as tool_calls."""
    tools: list[dict[str, Any]] = field(default_factory=list)
    """What may be called in it."""
    muted: frozenset[int] = frozenset()
    """The assistant's messages that are not learnt."""
    marked: frozenset[int] = frozenset()
    """Those that the row says are learnt."""
    weight: float = 1.0
    """By which its loss is multiplied."""

    def learning(self, which: Literal["all", "last", "marked"]) -> Chat:
        """Return the chat with only these of its turns to learn; see `training.learn`."""
        spoken = frozenset(i for i, m in enumerate(self.messages) if m["role"] == "assistant")
        kept = {"all": spoken, "last": frozenset([max(spoken)]), "marked": self.marked}[which]
        return replace(self, muted=self.muted | (spoken - kept))

    @property
    def characters(self) -> int:
        """Length of all contents."""
        return sum(len(message.get("content", "")) for message in self.messages)


@dataclass(frozen=True)
class PlainText:
    """A completion, after a prompt that may be empty."""

    prompt: str
    completion: str
    weight: float = 1.0
    """By which its loss is multiplied."""

    @property
    def characters(self) -> int:
        """Length of both texts."""
        return len(self.prompt) + len(self.completion)


Example = Chat | PlainText | Preference | Judged | Prompt | Labelled


@dataclass(frozen=True)
class Schema:
    """How the rows of one dataset are laid out."""

    format: Format
    columns: dict[str, str]
    """The dataset's names for the columns, by ours, where they differ."""
    roles: dict[str, str] = field(default_factory=dict)
    """The dataset's further names for roles."""
    asks_in_chats: bool = False
    """Whether a prompt that is a text is the user's turn in a chat: where a system message, tools or
    turns before it come with it, there is no other place for them."""

    def convert(self, row: dict[str, Any]) -> Example:
        """Return what there is to learn from `row`.

        Raises:
            RowProblem: naming the field, what is wrong with it, and the remedy.
        """
        context = self.context(row)
        if self.format not in OF_TOKENS:
            if self.format != "prompts":  # whose columns are all for the reward functions
                refuse_weight(row, self._name(WEIGHT), self._of_layout)
            return self._judged(row, context)
        weight = weight_of(row, self._name(WEIGHT), self._of_layout)
        return replace(self._learned(row, context), weight=weight)

    def _learned(self, row: dict[str, Any], context: Context) -> Chat | PlainText:
        """Return what is learned token by token."""
        match self.format:
            case "messages" | "conversations":
                return self._chat(self._get(row, self.format), self.format, context)
            case "instruction":
                return self._instruction(row, context)
            case "prompt_completion":
                return self._prompt_completion(row, context)
            case _:
                return PlainText("", self._text(row, "text"))

    def _judged(
        self, row: dict[str, Any], context: Context
    ) -> Preference | Judged | Prompt | Labelled:
        """Return what is compared, judged, asked or has a class."""
        match self.format:
            case "preference":
                prompt = row.get(self._name("prompt"))
                if prompt is None:
                    self._refuse_guess(row)
                given = (prompt, self._get(row, "chosen"), self._get(row, "rejected"))
                return preference(self._asking(context), *given)
            case "unpaired":
                given = tuple(self._get(row, column) for column in NEEDED["unpaired"])
                return judged(self._asking(context), *given)
            case "labelled_text" | "labelled_pair" | "labelled_chat":
                return self._labelled(row, context)
            case _:
                # Kept for the reward functions, which get every other column.
                others = {k: v for k, v in row.items() if k != self._name("prompt")}
                if taken := [name for name in others if name in OF_REWARDS]:
                    raise RowProblem(
                        taken[0],
                        "is a name by which reward functions get something else",
                        "rename the column, such as to answer",
                    )
                asked = question(self._asking(context), self._get(row, "prompt"))
                return Prompt(asked, others)

    def context(self, row: dict[str, Any]) -> Context:
        """Return what a row has beside its layout; a text alone has no place for it.

        Raises:
            RowProblem: it is not what its name says.
        """
        refuse_media(row, self._of_layout)
        if self.format in ALONE:
            return Context()
        return context_of(row, self.columns, self._of_layout)

    def unread(self, row: dict[str, Any]) -> list[str]:
        """Return the columns of a row that hold something and that nothing reads."""
        if self.format == "prompts":
            return []
        weight = {self._name(WEIGHT)} if self.format in OF_TOKENS else set()
        context = set() if self.format in ALONE else columns_of(self.columns)
        read = self._of_layout | weight | context
        return [name for name, value in row.items() if name not in read and value is not None]

    def _refuse_guess(self, row: dict[str, Any]) -> None:
        """Refuse to take what two texts share for their prompt where a column may well be it."""
        others = [
            name for name in self.unread(row) if isinstance(row[name], str) and row[name].strip()
        ]
        if others and isinstance(row.get(self._name("chosen")), str):
            raise RowProblem(
                others[0],
                "may be the prompt, and no column is named as such",
                f"set dataset.columns: {{prompt: {others[0]}}}, or remove it if the answers begin "
                "with their prompt",
            )

    @cached_property
    def _of_layout(self) -> set[str]:
        ours = (*NEEDED[self.format], *OPTIONAL.get(self.format, ()))
        return {self._name(column) for column in ours}

    def _asking(self, context: Context) -> Asking:
        names = {name: self._name(name) for name in OUR_COLUMNS}
        return Asking(context, names, self.roles, as_chat=self.asks_in_chats)

    def _chat(self, value: Any, column: Format, context: Context) -> Chat:
        name = self._name(column)
        messages = context.before(chat_of(value, name, roles=self.roles))
        return _chat(messages, name, context)

    def _instruction(self, row: dict[str, Any], context: Context) -> Chat:
        question = self._text(row, "instruction")
        # Many datasets leave `input` empty or out where the instruction says it all.
        # One column of theirs may stand for both in dataset.columns.
        is_apart = self._name("input") != self._name("instruction")
        if is_apart and row.get(self._name("input")) not in (None, ""):
            question = f"{question}\n\n{self._text(row, 'input')}"
        answer = self._text(row, "output")
        messages = [
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer},
        ]
        return Chat(context.before(messages), context.tools)

    def _prompt_completion(self, row: dict[str, Any], context: Context) -> Chat | PlainText:
        given = self._get(row, "prompt"), self._get(row, "completion")
        prompt, completion = completed(self._asking(context), *given)
        if isinstance(prompt, str) or isinstance(completion, str):
            return PlainText(str(prompt), str(completion))
        asked = [{**message, "weight": False} for message in prompt]
        return _chat(asked + completion, self._name("completion"), context)

    def _labelled(self, row: dict[str, Any], context: Context) -> Labelled:
        label = labels_of(self._get(row, "label"), self._name("label"))
        if self.format == "labelled_text":
            return Labelled((self._text(row, "text"),), *label)
        if self.format == "labelled_pair":
            return Labelled((self._text(row, "text_a"), self._text(row, "text_b")), *label)
        name = self._name("messages")
        messages = chat_of(self._get(row, "messages"), name, answered=False, roles=self.roles)
        return Labelled((), *label, plain(context.before(messages)), context.tools)

    def _name(self, column: str) -> str:
        return self.columns.get(column, column)

    def _get(self, row: dict[str, Any], column: str) -> Any:
        name = self._name(column)
        if name not in row:
            raise RowProblem(name, "is missing", f"add it; the row has {listed(row)}")
        return row[name]

    def _text(self, row: dict[str, Any], column: str) -> str:
        return a_text(self._get(row, column), self._name(column))


def _chat(messages: list[Message], name: str, context: Context) -> Chat:
    plain, silent, marked = weighed(messages, name)
    return Chat(plain, context.tools, silent, marked)


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
    lacking = [
        theirs
        for ours, theirs in dataset.columns.items()
        if theirs not in first.value and (given is None or ours in NEEDED[cast("Format", given)])
    ]
    if lacking:
        raise DataError(
            f"dataset.columns: {first.place} has no {listed(lacking)}; it has {listed(first.value)}.",
            "Correct the name on the right of the colon.",
        )
    if given == "text" and "text" not in dataset.columns:
        _refuse_turn(first, names.get("text", "text"))
    if given in formats:
        schema = Schema(cast("Format", given), {**names, **dataset.columns}, dict(dataset.roles))
        with suppress(RowProblem):  # which is told with the row
            return replace(schema, asks_in_chats=bool(schema.context(first.value)))
        return schema
    raise _unfit(first, config, given or _exactly(first, tuple(NEEDED)))


def _refuse_turn(row: Row, column: str) -> None:
    """Refuse to take what one says in a chat for a text that stands for itself.

    Raises:
        DataError: the row is a turn.
    """
    speaker = next((str(row.value[name]) for name in OF_TURNS if row.value.get(name)), "")
    if speaker.strip().casefold() in ROLES:
        raise DataError(
            f"{row.place} is a turn of a chat: {listed(row.value)}.",
            'Put the turns of each chat into one row, {"messages": [{role, content}, …]}. Where each is a '
            f"text by itself, name its column: dataset.columns: {{text: {column}}}.",
        )


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
