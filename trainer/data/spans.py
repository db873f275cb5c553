"""Where in the text of a chat the assistant speaks."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

from trainer.contract.errors import DataError
from trainer.data.lost import lost, refuse_lost
from trainer.data.templates import ChatTemplate, Span, training_variant
from trainer.data.turns import THOUGHTS, Message

if TYPE_CHECKING:
    from trainer.data.formats import Chat

T = TypeVar("T")
GENERATION_TAG = re.compile(r"\{%-?\s*generation\s*-?%\}")
PROBE = "\ue000\ue001\ue002"
"""Stands in for a content; private-use characters, which no template and hardly a text holds."""
FRAME = re.compile(r"(?:\s|<[^<>\s]*>)*")
"""Tags and white space: what templates put around thoughts, be there any or none."""
REMEDY = "Set assistant_only_loss: false, or give the model a chat template with {% generation %}."


class Turns:
    """Finds the assistant's turns in what a template renders."""

    def __init__(self, template: ChatTemplate) -> None:
        self.template = template
        self.is_tagged = GENERATION_TAG.search(template.source) is not None
        self.forgotten = 0
        """Turns that are shown without their thoughts; see `refuse_lost`."""
        self.varied = 0
        """Chats that are rendered by the template's variant; see `whole`."""

    def whole(self, work: Callable[[Turns], T]) -> T:
        """Return what `work` makes of these turns, or else of TRL's variant of the template.

        Models that think are trained on whole turns, and their own templates show none of the
        thoughts; TRL has variants of them for training.

        Raises:
            DataError: the template leaves something out, and there is no variant that does not.
        """
        try:
            return work(self)
        except DataError:
            if self._variant is None:
                raise
            with suppress(DataError):
                found = work(self._variant)
                self.varied += 1
                return found
            raise

    @cached_property
    def _variant(self) -> Turns | None:
        source = training_variant(self.template.tokenizer)
        if source is None:
            return None
        variant = Turns(ChatTemplate(self.template.tokenizer, source))
        # Its tags stand around a turn's header too, which the prompt for an answer already has.
        variant.is_tagged = False
        return variant

    def of(self, place: str, chat: Chat) -> tuple[str, list[Span]]:
        """Return the text of a chat and where, in characters, the assistant says what is learnt.

        Raises:
            DataError: it cannot be told, or the template leaves something out.
        """
        spoken = assistants(chat.messages)
        if not self.is_tagged:
            text = self.text(place, chat)
            learnt = [i for i in spoken if i not in chat.muted]
            return text, [self._span(place, text, chat, i) for i in learnt]
        text, spans = self.template.render_tagged(chat.messages, chat.tools)
        self._check(place, chat, text)
        if len(spans) == len(spoken):
            return text, [s for i, s in zip(spoken, spans, strict=True) if i not in chat.muted]
        # Some templates tag a turn in several parts.
        silent = [self._span(place, text, chat, i) for i in sorted(chat.muted)]
        return text, [
            s for s in spans if not any(s[0] < end and start < s[1] for start, end in silent)
        ]

    def text(self, place: str, chat: Chat) -> str:
        """Return the text of a chat.

        Raises:
            DataError: the template leaves something out.
        """
        text = self.template.render(chat.messages, chat.tools)
        self._check(place, chat, text)
        return text

    def start(self, place: str, text: str, chat: Chat, i: int) -> int:
        """Return where message `i` begins in the whole text: after what a model is prompted with.

        Raises:
            DataError: it cannot be told.
        """
        prompt = self._prompt_for(chat, i)
        if prompt and text.startswith(prompt):
            return len(prompt)
        start = self._start_by_probe(text, chat, i) if i else None
        if start is None:
            raise self._unknown(place)
        return start

    def _check(self, place: str, chat: Chat, text: str) -> None:
        self.forgotten += refuse_lost(place, self.template, chat.messages, chat.tools, text)

    def _span(self, place: str, text: str, chat: Chat, i: int) -> Span:
        """Return what message `i` adds after the prompt that a model would be given for it."""
        start = self.start(place, text, chat, i)
        until = self.template.render(chat.messages[: i + 1], chat.tools)
        # The rendering up to here is a prefix of the whole chat: the usual case.
        end = len(until) if text.startswith(until) else self._end_by_probe(text, chat, i)
        # Whichever way they were found, what is seen of the turn must be between them.
        if end is None or self._lost(chat, i, text[start:end]) != self._lost(chat, i, text):
            raise self._unknown(place)
        return start, end

    def _lost(self, chat: Chat, i: int, text: str) -> set[tuple[str, str]]:
        return {(what, said) for _, what, said in lost(self.template, [chat.messages[i]], [], text)}

    def _unknown(self, place: str) -> DataError:
        return DataError(
            f"{place}: the chat template of {self.template.name} renders part of this chat "
            "differently from the whole, so the assistant's part cannot be located.",
            REMEDY,
        )

    def _prompt_for(self, chat: Chat, i: int) -> str:
        """Return the text up to where the assistant begins message `i`; empty if unknown."""
        if i > 0:
            return self.template.render(chat.messages[:i], chat.tools, prompt=True)
        # Templates take no empty chat; the text that prompts for an answer is looked for instead.
        alone = self.template.render(chat.messages[:1], chat.tools)
        # What the template appends to ask for an answer is what it puts before every answer.
        header = self._header(chat, 1)
        start, found, _ = alone.partition(header) if header else (alone, "", "")
        return start + found if found else ""

    def _header(self, chat: Chat, count: int) -> str:
        """Return what asks for an answer to the first messages; empty where nothing does."""
        messages = chat.messages[:count]
        before = self.template.render(messages, chat.tools)
        prompt = self.template.render(messages, chat.tools, prompt=True)
        # Some templates end a chat with a token that a prompt has not.
        return prompt[self.template.common(before, prompt) :]

    def _start_by_probe(self, text: str, chat: Chat, i: int) -> int | None:
        """Find the start where the prompt for an answer is no part of the chat with the answer.

        Templates have a model begin with its thoughts, which they show nowhere else, or leave out
        thoughts of turns before. Between what was said before and what is said now stands as much of
        the way of asking as is there.
        """
        before, header = self._after(text, chat, i - 1), self._header(chat, i)
        if before is None:
            return None
        for probed, may_follow in self._beginnings(chat, i):
            for count in range(len(header), 0, -1):
                start = probed.find(header[:count], before) + count
                # Less than all of it is enough where nothing else comes before what is said.
                is_all = count == len(header) or may_follow(probed[start:])
                if start >= count and is_all and text[:start] == probed[:start]:
                    return start
        return None

    def _beginnings(self, chat: Chat, i: int) -> Iterator[tuple[str, Callable[[str], bool]]]:
        """Yield the chat up to what is said in message `i`, and what may stand before that."""
        thoughts = chat.messages[i].get(THOUGHTS[0], "")

        def is_frame(text: str) -> bool:
            return FRAME.fullmatch(text.replace(thoughts, "") if thoughts else text) is not None

        said = [*chat.messages[:i], {**chat.messages[i], "content": PROBE}, *chat.messages[i + 1 :]]
        yield from self._before_probe(said, chat, is_frame)
        # Some templates show no content beside a call: then all of the header must be there.
        yield from self._before_probe(_probed(chat.messages, i), chat, lambda _: False)

    def _before_probe(
        self, probed: list[Message], chat: Chat, may_follow: Callable[[str], bool]
    ) -> Iterator[tuple[str, Callable[[str], bool]]]:
        text, found, _ = self.template.render(probed, chat.tools).rpartition(PROBE)
        if found:
            yield text, may_follow

    def _after(self, text: str, chat: Chat, i: int) -> int | None:
        """Return where the content of message `i` ends, or what stands for it."""
        _, found, rest = self.template.render(_probed(chat.messages, i), chat.tools).rpartition(
            PROBE
        )
        return len(text) - len(rest) if found and text.endswith(rest) else None

    def _end_by_probe(self, text: str, chat: Chat, i: int) -> int | None:
        """Find the end where templates render the last turn otherwise, such as with its thoughts.

        With the content exchanged for a probe, what follows the probe in the whole chat is what
        follows the content; and what follows it in the chat up to here is what closes the turn.
        """
        probed = _probed(chat.messages, i)
        _, found, rest = self.template.render(probed, chat.tools).rpartition(PROBE)
        if not found or not text.endswith(rest):
            return None
        _, _, closing = self.template.render(probed[: i + 1], chat.tools).rpartition(PROBE)
        if not rest.startswith(closing):
            closing = self._closing(rest, probed, chat, i)
        return len(text) - len(rest) + len(closing)

    def _closing(self, rest: str, probed: list[Message], chat: Chat, i: int) -> str:
        """Return what closes a turn where the last of all is closed otherwise, or with more.

        Where the assistant is asked to speak again instead of what comes in the chat, both are the
        same up to the end of the turn, and perhaps in how a turn begins.
        """
        again = self.template.render(probed[: i + 1], chat.tools, prompt=True).rpartition(PROBE)[2]
        closing = rest[: self.template.common(rest, again)]
        header = self._header(chat, max(i, 1))
        shared = (k for k in range(len(header), 0, -1) if closing.endswith(header[:k]))
        return closing[: len(closing) - next(shared, 0)]


def _probed(messages: list[Message], i: int) -> list[Message]:
    """Return the messages with a probe for what message `i` says, or for what it calls."""
    message = messages[i]
    probe: Message = {"content": PROBE}
    if not message.get("content") and (calls := message.get("tool_calls")):
        call = {**calls[0], "function": {**calls[0]["function"], "name": PROBE}}
        probe = {"tool_calls": [call, *calls[1:]]}
    return [*messages[:i], message | probe, *messages[i + 1 :]]


def assistants(messages: list[Message]) -> list[int]:
    """Return which of the messages the assistant says."""
    return [i for i, message in enumerate(messages) if message["role"] == "assistant"]
