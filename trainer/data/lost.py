"""What a chat template leaves out of a chat: a row that says it would be learned without it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from trainer.contract.errors import DataError
from trainer.data.turns import END_OF_THOUGHTS, START_OF_THOUGHTS, THOUGHTS, Message

if TYPE_CHECKING:
    from trainer.data.templates import ChatTemplate

WAYS = {
    "the tool calls": "Set chat_template to one that shows tool calls, or write them into the "
    "content as the model is to write them.",
    "the thoughts": "Set chat_template to one that shows thoughts, or remove them from the rows.",
    "the tools": "Set chat_template to one that shows tools, or describe them in the system "
    "message.",
}
"""What may be lost, and the way to keep it."""
CONTENT = "Set chat_template to one that shows it, or write it into another turn."


class Loss(NamedTuple):
    """What is not there in what is rendered."""

    turn: int
    """Of the message; -1 for what is said of the whole chat."""
    what: str
    text: str


def lost(
    template: ChatTemplate, messages: list[Message], tools: list[dict[str, Any]], text: str
) -> Iterator[Loss]:
    """Yield what a template has left out.

    White space does not count, and neither does whether a text is escaped as JSON.
    """
    shown = _Shown(text)
    for tool in tools:
        if "tools" not in template.words or tool["function"]["name"] not in shown:
            yield Loss(-1, "the tools", tool["function"]["name"])
    for i, message in enumerate(messages):
        # A short name may well stand in the text by chance.
        for call in message.get("tool_calls", ()) if "tool_calls" not in template.words else ():
            yield Loss(i, "the tool calls", call["function"]["name"])
        if THOUGHTS[0] in message and template.words.isdisjoint((*THOUGHTS, END_OF_THOUGHTS)):
            yield Loss(i, "the thoughts", message[THOUGHTS[0]])
        yield from _lost_of(i, message, shown)


def refuse_lost(
    place: str,
    template: ChatTemplate,
    messages: list[Message],
    tools: list[dict[str, Any]],
    text: str,
) -> int:
    """Return how many turns are shown without their thoughts, as a template does with earlier ones.

    Args:
        place: where the row came from.
        template: what has rendered the chat.
        messages: the chat.
        tools: what may be called in it.
        text: what the template makes of it.

    Raises:
        DataError: naming what else would be lost, and the way to keep it.
    """
    asked = max((i for i, m in enumerate(messages) if m["role"] == "user"), default=-1)
    forgotten = 0
    for turn, what, said in lost(template, messages, tools, text):
        # Models are shown the thoughts of the last turns alone, so they learn with no others.
        if what == "the thoughts" and turn < asked:
            forgotten += 1
            continue
        of = f" of message {turn + 1} ({messages[turn]['role']})" if turn >= 0 else ""
        start = said if len(said) <= 60 else f"{said[:57]}..."
        raise DataError(
            f"{place}: the chat template of {template.name} leaves out {what}{of}: {start!r}.",
            WAYS.get(what, CONTENT),
        )
    return forgotten


def _lost_of(i: int, message: Message, shown: _Shown) -> Iterator[Loss]:
    content = message.get("content", "")
    if content not in shown:
        thoughts, end, said = content.rpartition(END_OF_THOUGHTS)
        # The tag before them may be part of the way of asking.
        thoughts = thoughts.strip().removeprefix(START_OF_THOUGHTS)
        if end and message["role"] == "assistant" and thoughts not in shown:
            yield Loss(i, "the thoughts", thoughts)
        if said not in shown:
            yield Loss(i, "the content", said)
    thoughts = message.get(THOUGHTS[0], "")
    if thoughts not in shown:
        yield Loss(i, "the thoughts", thoughts)
    for call in message.get("tool_calls", ()):
        said = [call["function"]["name"], *_leaves(call["function"]["arguments"])]
        for each in said:
            if each not in shown:
                yield Loss(i, "the tool calls", each)


def _leaves(value: Any) -> Iterable[str]:
    """Yield everything in a value that must be seen of it, as text."""
    if isinstance(value, dict):
        for key, each in value.items():
            yield str(key)
            yield from _leaves(each)
    elif isinstance(value, list):
        for each in value:
            yield from _leaves(each)
    elif value is not None:
        yield value if isinstance(value, str) else json.dumps(value)


class _Shown:
    """What a template has rendered: whatever is shown of it, in whichever spelling, is in it."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __contains__(self, said: str) -> bool:
        said = said.strip()
        # The usual case costs no more than this.
        if said in self._text:
            return True
        forms = (said, json.dumps(said, ensure_ascii=False)[1:-1], json.dumps(said)[1:-1])
        return any(_squeezed(form) in self._squeezed for form in forms)

    @cached_property
    def _squeezed(self) -> str:
        return _squeezed(self._text)


def _squeezed(text: str) -> str:
    # Templates trim and indent, and write true as True.
    return "".join(text.split()).casefold()
