"""Where in the text of a chat the assistant speaks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from trainer.contract.errors import DataError
from trainer.data.templates import ChatTemplate, Span
from trainer.data.turns import Message

if TYPE_CHECKING:
    from trainer.data.formats import Chat

GENERATION_TAG = re.compile(r"\{%-?\s*generation\s*-?%\}")
PROBE = "\ue000\ue001\ue002"
"""Stands in for a content; private-use characters, which no template and hardly a text holds."""
REMEDY = "Set assistant_only_loss: false, or give the model a chat template with {% generation %}."


class Turns:
    """Finds the assistant's turns in what a template renders."""

    def __init__(self, template: ChatTemplate) -> None:
        self.template = template
        self.is_tagged = GENERATION_TAG.search(template.source) is not None

    def of(self, place: str, chat: Chat) -> tuple[str, list[Span]]:
        """Return the text of a chat and where, in characters, the assistant says what is learnt.

        Raises:
            DataError: it cannot be told.
        """
        spoken = assistants(chat.messages)
        if not self.is_tagged:
            text = self.template.render(chat.messages, chat.tools)
            learnt = [i for i in spoken if i not in chat.muted]
            return text, [self._span(place, text, chat, i) for i in learnt]
        text, spans = self.template.render_tagged(chat.messages, chat.tools)
        if len(spans) == len(spoken):
            return text, [s for i, s in zip(spoken, spans, strict=True) if i not in chat.muted]
        # Some templates tag a turn in several parts.
        silent = [self._span(place, text, chat, i) for i in sorted(chat.muted)]
        return text, [
            s for s in spans if not any(s[0] < end and start < s[1] for start, end in silent)
        ]

    def start(self, place: str, text: str, chat: Chat, i: int) -> int:
        """Return where message `i` begins in the whole text: after what a model is prompted with.

        Raises:
            DataError: it cannot be told.
        """
        prompt = self._prompt_for(chat, i)
        if prompt and text.startswith(prompt):
            return len(prompt)
        if prompt and (start := self._start_by_probe(prompt, text, chat, i)):
            return start
        raise self._unknown(place)

    def _span(self, place: str, text: str, chat: Chat, i: int) -> Span:
        """Return what message `i` adds after the prompt that a model would be given for it."""
        start = self.start(place, text, chat, i)
        until = self.template.render(chat.messages[: i + 1], chat.tools)
        # The rendering up to here is a prefix of the whole chat: the usual case.
        end = len(until) if text.startswith(until) else self._end_by_probe(text, chat, i)
        if end is None or end < start:
            raise self._unknown(place)
        return start, end

    def _unknown(self, place: str) -> DataError:
        return DataError(
            f"{place}: the chat template of {self.template.name} renders part of this chat "
            "differently from the whole, so the assistant's part cannot be located.",
            REMEDY,
        )

    def _prompt_for(self, chat: Chat, i: int) -> str:
        """Return the text up to where the assistant begins message `i`; empty if unknown."""
        render, tools = self.template.render, chat.tools
        if i > 0:
            return render(chat.messages[:i], tools, prompt=True)
        # Templates take no empty chat; the text that prompts for an answer is looked for instead.
        alone = render(chat.messages[:1], tools)
        # What the template appends to ask for an answer is what it puts before every answer.
        header = render(chat.messages[:1], tools, prompt=True).removeprefix(alone)
        start, found, _ = alone.partition(header) if header else (alone, "", "")
        return start + found if found else ""

    def _start_by_probe(self, prompt: str, text: str, chat: Chat, i: int) -> int | None:
        """Find the start where the prompt for an answer ends in something that the answer has not.

        So do templates that have a model begin with its thoughts, and show answers without them.
        The probe sees to it that no word of the answer is taken for the prompt's.
        """
        probed = self.template.render(_probed(chat.messages, i), chat.tools)
        shared = common(prompt, probed)
        before = self.template.render(chat.messages[:i], chat.tools)
        # All of the chat before must be the same in both, and only the way of asking differ.
        if prompt.startswith(before) and shared >= len(before) and text[:shared] == prompt[:shared]:
            return shared
        return None

    def _end_by_probe(self, text: str, chat: Chat, i: int) -> int | None:
        """Find the end where templates render the last turn otherwise, such as with its thoughts.

        With the content exchanged for a probe, what follows the probe in the whole chat is what
        follows the content; and what follows it in the chat up to here is what closes the turn.
        """
        probed, tools = _probed(chat.messages, i), chat.tools
        _, found, rest = self.template.render(probed, tools).rpartition(PROBE)
        _, _, closing = self.template.render(probed[: i + 1], tools).rpartition(PROBE)
        if not found or not text.endswith(rest) or not rest.startswith(closing):
            return None
        return len(text) - len(rest) + len(closing)


def _probed(messages: list[Message], i: int) -> list[Message]:
    return [*messages[:i], {**messages[i], "content": PROBE}, *messages[i + 1 :]]


def assistants(messages: list[Message]) -> list[int]:
    """Return which of the messages the assistant says."""
    return [i for i, message in enumerate(messages) if message["role"] == "assistant"]


def common(first: Sequence[object], second: Sequence[object]) -> int:
    """Return how many items, or characters, both begin with."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(first), len(second)))
