"""Chats → tokens, and which of the tokens the assistant said."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from trainer.contract.errors import DataError
from trainer.data.formats import Chat
from trainer.data.templates import ChatTemplate, Message, Span
from trainer.data.texts import tokens_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NO_LOSS = -100
"""The label of a token that is not learnt; torch's cross entropy ignores it."""
GENERATION_TAG = re.compile(r"\{%-?\s*generation\s*-?%\}")
PROBE = "\ue000\ue001\ue002"
"""Stands in for a content; private-use characters, which no template and hardly a text holds."""
REMEDY = "Set assistant_only_loss: false, or give the model a chat template with {% generation %}."


class Encoded(NamedTuple):
    """One row, ready to learn from; both lists have the same length."""

    input_ids: list[int]
    labels: list[int]
    """The token itself, or NO_LOSS."""


class ChatEncoder:
    """Renders chats with the tokenizer's chat template and labels the assistant's tokens."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, assistant_only: bool) -> None:
        self.tokenizer = tokenizer
        self.assistant_only = assistant_only
        self.template = ChatTemplate(tokenizer)
        self.turns = Turns(self.template)
        added = tokenizer.added_tokens_decoder.items()
        # Some models add their turn markers as added tokens only, marked special.
        self.special = {*tokenizer.all_special_ids, *(i for i, token in added if token.special)}

    def encode(self, chats: Sequence[tuple[str, Chat]]) -> Iterator[Encoded]:
        """Yield each chat's tokens and labels.

        Args:
            chats: where each chat came from, for messages, and the chat.

        Raises:
            DataError: the template refuses a chat, or does not show where the assistant speaks.
        """
        rendered = [self._rendered(place, chat.messages) for place, chat in chats]
        # All at once: the fast tokenizers work in parallel on a batch.
        tokens = tokens_of(self.tokenizer, [text for text, _ in rendered])
        for (text, spans), ids, offsets in zip(
            rendered, tokens["input_ids"], tokens["offset_mapping"], strict=True
        ):
            if self.assistant_only:
                yield Encoded(ids, self._labels(text, spans, ids, offsets))
            else:
                yield Encoded(ids, list(ids))

    def _rendered(self, place: str, messages: list[Message]) -> tuple[str, list[Span]]:
        """Return the text of a chat and the spans of it, in characters, that are learnt."""
        with self.template.refusals(place):
            if not self.assistant_only:
                return self.template.render(messages), []
            return self.turns.of(place, messages)

    def _labels(
        self, text: str, spans: list[Span], ids: list[int], offsets: list[Span]
    ) -> list[int]:
        """Label the tokens of the spans, up to the token that closes the turn and no further."""
        labels = [NO_LOSS] * len(ids)
        starts = [start for start, _ in offsets]
        ends = [end for _, end in offsets]
        for start, end in spans:
            # Byte-level tokenizers trim spaces from offsets: a token of spaces is empty, at its
            # end.
            first = bisect_right(ends, start)
            stop = max(bisect_left(starts, end), bisect_right(ends, end))
            last = next((i for i in range(stop - 1, first - 1, -1) if ids[i] in self.special), None)
            # The token that closes the turn is learnt, or the model would never stop; what the
            # template puts between two turns is not.
            if last is not None and not text[ends[last] : end].strip():
                stop = last + 1  # the line break after the token that closes the turn
            elif self._eos_follows(ids, first, stop):
                stop += 1  # the tags stand around the words alone
            labels[first:stop] = ids[first:stop]
        return labels

    def _eos_follows(self, ids: list[int], first: int, stop: int) -> bool:
        return first < stop < len(ids) and ids[stop] == self.tokenizer.eos_token_id


class Turns:
    """Finds the assistant's turns in what a template renders."""

    def __init__(self, template: ChatTemplate) -> None:
        self.template = template
        self.is_tagged = GENERATION_TAG.search(template.source) is not None

    def of(self, place: str, messages: list[Message]) -> tuple[str, list[Span]]:
        """Return the text of a chat and where, in characters, the assistant speaks.

        Raises:
            DataError: it cannot be told.
        """
        if self.is_tagged:
            return self.template.render_tagged(messages)
        text = self.template.render(messages)
        assistants = [i for i, each in enumerate(messages) if each["role"] == "assistant"]
        return text, [self._span(place, text, messages, i) for i in assistants]

    def start(self, place: str, text: str, messages: list[Message], i: int) -> int:
        """Return where message `i` begins in the whole text: after what a model is prompted with.

        Raises:
            DataError: it cannot be told.
        """
        prompt = self._prompt_for(messages, i)
        if prompt and text.startswith(prompt):
            return len(prompt)
        if prompt and (start := self._start_by_probe(prompt, text, messages, i)):
            return start
        raise self._unknown(place)

    def _span(self, place: str, text: str, messages: list[Message], i: int) -> Span:
        """Return what message `i` adds after the prompt that a model would be given for it."""
        start = self.start(place, text, messages, i)
        until = self.template.render(messages[: i + 1])
        # The rendering up to here is a prefix of the whole chat: the usual case.
        end = len(until) if text.startswith(until) else self._end_by_probe(text, messages, i)
        if end is None or end < start:
            raise self._unknown(place)
        return start, end

    def _unknown(self, place: str) -> DataError:
        return DataError(
            f"{place}: the chat template of {self.template.name} renders part of this chat "
            "differently from the whole, so the assistant's part cannot be located.",
            REMEDY,
        )

    def _prompt_for(self, messages: list[Message], i: int) -> str:
        """Return the text up to where the assistant begins message `i`; empty if unknown."""
        render = self.template.render
        if i > 0:
            return render(messages[:i], prompt=True)
        # Templates take no empty chat; the text that prompts for an answer is looked for instead.
        alone = render(messages[:1])
        # What the template appends to ask for an answer is what it puts before every answer.
        header = render(messages[:1], prompt=True).removeprefix(alone)
        start, found, _ = alone.partition(header) if header else (alone, "", "")
        return start + found if found else ""

    def _start_by_probe(
        self, prompt: str, text: str, messages: list[Message], i: int
    ) -> int | None:
        """Find the start where the prompt for an answer ends in something that the answer has not.

        So do templates that have a model begin with its thoughts, and show answers without them.
        The probe sees to it that no word of the answer is taken for the prompt's.
        """
        probed = self.template.render([*messages[:i], _probed(messages[i]), *messages[i + 1 :]])
        shared = common(prompt, probed)
        before = self.template.render(messages[:i])
        # All of the chat before must be the same in both, and only the way of asking differ.
        if prompt.startswith(before) and shared >= len(before) and text[:shared] == prompt[:shared]:
            return shared
        return None

    def _end_by_probe(self, text: str, messages: list[Message], i: int) -> int | None:
        """Find the end where templates render the last turn otherwise, such as with its thoughts.

        With the content exchanged for a probe, what follows the probe in the whole chat is what
        follows the content; and what follows it in the chat up to here is what closes the turn.
        """
        render = self.template.render
        probed = [*messages[:i], _probed(messages[i]), *messages[i + 1 :]]
        _, found, rest = render(probed).rpartition(PROBE)
        _, _, closing = render(probed[: i + 1]).rpartition(PROBE)
        if not found or not text.endswith(rest) or not rest.startswith(closing):
            return None
        return len(text) - len(rest) + len(closing)


def _probed(message: Message) -> Message:
    return {**message, "content": PROBE}


def common(first: Sequence[object], second: Sequence[object]) -> int:
    """Return how many items, or characters, both begin with."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(first), len(second)))
