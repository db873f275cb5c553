"""Rows that judge answers, or only ask: what preference and reinforcement learning learn from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

from trainer.data.context import Context
from trainer.data.problems import RowProblem, a_text, kind_of_value, short
from trainer.data.turns import WEIGHTS, Message, chat_of

Said = str | list[Message]
"""A text, or messages with `role` and `content`."""


@dataclass(frozen=True)
class Preference:
    """A better and a worse answer to the same prompt."""

    prompt: Said
    chosen: Said
    rejected: Said
    tools: list[dict[str, Any]] = field(default_factory=list)

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
    tools: list[dict[str, Any]] = field(default_factory=list)

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


@dataclass(frozen=True)
class Asking:
    """How the rows of a dataset ask, and what comes before a prompt."""

    context: Context
    names: Mapping[str, str]
    """How the dataset calls its columns, by our names."""
    roles: Mapping[str, str] = field(default_factory=dict)
    as_chat: bool = False
    """See `Schema.asks_in_chats`."""

    def messages(self, value: Any, column: str, *, answered: bool = True) -> list[Message]:
        """Return the messages of a column."""
        return chat_of(value, self.names[column], answered=answered, roles=self.roles)

    def text(self, value: Any, column: str) -> str:
        """Return the text of a column."""
        return a_text(value, self.names[column])

    def is_chat(self, *said: Any) -> bool:
        """Whether texts are turns in a chat here.

        Raises:
            RowProblem: the chat's context is there, and the dataset's other rows are plain texts.
        """
        if any(isinstance(each, list) for each in said):
            return True
        if self.context and not self.as_chat:
            raise RowProblem(
                next(iter(self.context.names.values())),
                "is given here, and the first row is plain text without",
                "give the prompt as messages in every row",
            )
        return self.as_chat


def length(said: Said) -> int:
    """Return the number of characters of a text or of all contents."""
    if isinstance(said, str):
        return len(said)
    return sum(len(message.get("content", "")) for message in said)


def preference(asking: Asking, prompt: Any, chosen: Any, rejected: Any) -> Preference:
    """Return a pair of answers.

    Args:
        asking: how the rows ask.
        prompt: None where the answers begin with it.
        chosen: the better answer.
        rejected: the worse one.

    Raises:
        RowProblem: they do not make a pair.
    """
    names = asking.names
    # One message is a conversation too.
    chosen, rejected = ([each] if isinstance(each, dict) else each for each in (chosen, rejected))
    if isinstance(chosen, list) != isinstance(rejected, list):
        raise _other_kind(names["rejected"], rejected, names["chosen"], chosen)
    if prompt is None:
        asked, answers = _parted(asking, chosen, rejected)
    else:
        asked, answers = _answered(asking, prompt, {"chosen": chosen, "rejected": rejected})
    better, worse = (_judgeable(*each) for each in zip(answers, _both(names), strict=True))
    # It would teach nothing, and usually is a mistake in the making of the data.
    if better == worse:
        raise RowProblem(names["rejected"], f"is the same as {names['chosen']}", "remove the row")
    return Preference(_plain(asked), better, worse, asking.context.tools)


def judged(asking: Asking, prompt: Any, completion: Any, label: Any) -> Judged:
    """Return one answer and its label.

    Raises:
        RowProblem: naming the column that is not what it should be.
    """
    asked, (answer,) = _answered(asking, prompt, {"completion": completion})
    if not isinstance(label, bool):
        # CSV has texts only, and tables often hold 0 and 1.
        label = LABELS.get(str(label).strip().lower(), label)
    if not isinstance(label, bool):
        raise RowProblem(asking.names["label"], f"is {short(label)}", "write true or false")
    answer = _judgeable(answer, asking.names["completion"])
    return Judged(_plain(asked), answer, label, asking.context.tools)


def completed(asking: Asking, prompt: Any, completion: Any) -> tuple[Said, Said]:
    """Return a prompt and what follows it, as two texts or as messages that keep their weights.

    Raises:
        RowProblem: naming the column that is not what it should be.
    """
    asked, (answer,) = _answered(asking, prompt, {"completion": completion})
    return asked, answer


def question(asking: Asking, value: Any) -> Said:
    """Return a prompt.

    Raises:
        RowProblem: it is not a prompt, or ends with an answer.
    """
    name = asking.names["prompt"]
    if asking.context.tools:
        raise RowProblem(
            asking.context.names["tools"],
            "would not be shown to the model, which answers without tools here",
            "rename the column if only reward functions read it, or remove it",
        )
    if not asking.is_chat(value):
        return asking.text(value, "prompt")
    messages = asking.context.before(_asked(asking, value))
    for i, message in enumerate(messages):
        if message.get("tool_calls"):
            raise RowProblem(
                f"{name}[{i}]", "calls tools", "remove the row: answers have none here"
            )
    return [{k: v for k, v in each.items() if k != WEIGHTS[0]} for each in messages]


LABELS = {"true": True, "false": False, "1": True, "0": False, "1.0": True, "0.0": False}
"""What a label may be in words; anything else could be meant either way."""


def _asked(asking: Asking, value: Any) -> list[Message]:
    """Return a prompt as messages."""
    name = asking.names["prompt"]
    if not isinstance(value, list):
        return [{"role": "user", "content": asking.text(value, "prompt")}]
    messages = asking.messages(value, "prompt", answered=False)
    if not messages or messages[-1]["role"] == "assistant":
        raise RowProblem(name, "ends with the assistant's turn", "end it with the user's")
    return messages


def _answered(asking: Asking, prompt: Any, given: Mapping[str, Any]) -> tuple[Said, list[Said]]:
    """Return a prompt and answers to it: texts where all are, else messages."""
    if not asking.is_chat(prompt, *given.values()):
        asked = asking.text(prompt, "prompt")
        texts = [asking.text(value, column) for column, value in given.items()]
        return asked, list(_unrepeated(asked, texts))
    before = _asked(asking, prompt)
    answers = []
    for column, value in given.items():
        if isinstance(value, list):
            answer = asking.messages(value, column)
            before, answer = _after(before, answer, asking, column, is_text=isinstance(prompt, str))
        else:
            answer = [{"role": "assistant", "content": asking.text(value, column)}]
        answers.append(answer)
    return asking.context.before(before), list(answers)


def _after(
    prompt: list[Message], answer: list[Message], asking: Asking, column: str, *, is_text: bool
) -> tuple[list[Message], list[Message]]:
    """Return the prompt, and the answer without it where it is repeated there.

    A prompt that is a text is the last question of the conversation that the answer holds whole.
    """
    if answer[0]["role"] == "assistant":
        return prompt, answer
    last = prompt[-1]["content"].strip()
    until = len(prompt)
    if is_text:
        asks = [
            i for i, m in enumerate(answer) if (m["role"], m["content"].strip()) == ("user", last)
        ]
        until = asks[-1] + 1 if asks else 0
    elif answer[0]["role"] != "system" and prompt[0]["role"] == "system":
        until -= 1
    whole = [(m["role"], m["content"].strip()) for m in answer[:until]]
    wanted = [(m["role"], m["content"].strip()) for m in prompt][-until:]
    follows = until < len(answer) and answer[until]["role"] == "assistant"
    if not follows or not until or (whole != wanted and not is_text):
        raise RowProblem(
            asking.names[column],
            f"begins with the {answer[0]['role']}'s turn, and not with the whole prompt",
            "give what follows the prompt, from the assistant's turn on",
        )
    return (answer[:until] if is_text else prompt), answer[until:]


def _unrepeated(prompt: str, answers: Sequence[str]) -> Sequence[str]:
    """Return texts without the prompt that all of several begin with.

    One answer may well begin with the words of its question; of a pair that both do, they are whole
    texts.
    """
    is_repeated = len(answers) > 1 and len(prompt.split()) > 1
    if is_repeated and all(a.startswith(prompt) and a != prompt for a in answers):
        return [answer.removeprefix(prompt) for answer in answers]
    return answers


def _parted(asking: Asking, chosen: Any, rejected: Any) -> tuple[Said, list[Said]]:
    """Return the prompt that both answers begin with, and how they go on.

    Datasets such as hh-rlhf repeat the prompt in both answers and have no column for it.
    """
    better, worse = (
        asking.messages(value, column) if isinstance(value, list) else asking.text(value, column)
        for column, value in (("chosen", chosen), ("rejected", rejected))
    )
    shared = _shared(better, worse)
    if not shared or shared in {len(better), len(worse)}:
        same = better == worse
        raise RowProblem(
            asking.names["rejected"],
            f"is the same as {asking.names['chosen']}"
            if same
            else f"and {asking.names['chosen']} do not begin with one prompt and go on differently",
            "remove the row" if same else "add a column 'prompt'",
        )
    asked, answers = better[:shared], [better[shared:], worse[shared:]]
    if isinstance(asked, str):
        if asking.is_chat():
            raise RowProblem(
                next(iter(asking.context.names.values()), asking.names["chosen"]),
                "has no place before texts without a prompt",
                "give chosen and rejected as messages, or a column 'prompt'",
            )
        return asked, answers
    return asking.context.before(asked), answers


def _shared(first: Said, second: Said) -> int:
    """Return how many messages both begin with, or how many characters, up to a whole word."""
    count = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False))))
    # Up to a whole word: answers may share the first letters of their first word.
    return first.rfind(" ", 0, count) + 1 if isinstance(first, str) else count


def _judgeable(answer: Said, name: str) -> Said:
    """Return an answer that can be compared: it begins with the assistant, and counts as a whole."""
    if isinstance(answer, str):
        return answer
    if answer[0]["role"] != "assistant":
        raise RowProblem(
            name, f"goes on with the {answer[0]['role']}'s turn", "end the prompt where it answers"
        )
    if any(message.get(WEIGHTS[0]) is False for message in answer):
        raise RowProblem(
            name, "has a turn of weight 0", "remove it: an answer is judged as a whole"
        )
    return _plain(answer)


def _plain(said: Said) -> Said:
    """Return messages without weights: what is judged is not learned turn by turn."""
    if isinstance(said, str):
        return said
    return [{k: v for k, v in message.items() if k != WEIGHTS[0]} for message in said]


def _both(names: Mapping[str, str]) -> tuple[str, str]:
    return names["chosen"], names["rejected"]


def _other_kind(name: str, value: Any, other: str, that: Any) -> RowProblem:
    return RowProblem(
        name,
        f"is {kind_of_value(value)} where {other} is {kind_of_value(that)}",
        "give texts in both, or lists of messages in both",
    )
