"""Chats → tokens, and which of the tokens the assistant said."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from trainer.data.endings import turn_end
from trainer.data.formats import Chat
from trainer.data.spans import Turns, assistants
from trainer.data.templates import ChatTemplate, Span
from trainer.data.texts import tokens_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NO_LOSS = -100
"""The label of a token that is not learnt; torch's cross entropy ignores it."""


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
        self.end = turn_end(tokenizer)

    def encode(self, chats: Sequence[tuple[str, Chat]]) -> Iterator[Encoded]:
        """Yield each chat's tokens and labels.

        Args:
            chats: where each chat came from, for messages, and the chat.

        Raises:
            DataError: the template refuses a chat, leaves something out of it, or does not show
                where the assistant speaks.
        """
        rendered = [self._rendered(place, chat) for place, chat in chats]
        # All at once: the fast tokenizers work in parallel on a batch.
        tokens = tokens_of(self.tokenizer, [text for text, _ in rendered])
        for (_, chat), (text, spans), ids, offsets in zip(
            chats, rendered, tokens["input_ids"], tokens["offset_mapping"], strict=True
        ):
            if chat.messages[-1]["role"] == "assistant":
                ids = self.end.added_to(text, ids, offsets)
                offsets = [*offsets, (len(text), len(text))][: len(ids)]
            labels = self._labels(text, spans, ids, offsets)
            if not self.assistant_only:  # then the spans are what is not learnt
                labels = [
                    NO_LOSS if said != NO_LOSS else token
                    for token, said in zip(ids, labels, strict=True)
                ]
            yield Encoded(ids, labels)

    def _rendered(self, place: str, chat: Chat) -> tuple[str, list[Span]]:
        """Return the text of a chat and the spans of it, in characters, that are learnt.

        Where all is learnt but some turns, the spans are of these.
        """
        with self.template.refusals(place, chat.messages):
            if self.assistant_only:
                return self.turns.whole(lambda turns: turns.of(place, chat))
            if not chat.muted:
                return self.turns.whole(lambda turns: turns.text(place, chat)), []
            spoken = frozenset(assistants(chat.messages))
            other = replace(chat, muted=spoken - chat.muted)
            return self.turns.whole(lambda turns: turns.of(place, other))

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
            last = next(
                (i for i in range(stop - 1, first - 1, -1) if ids[i] in self.end.special), None
            )
            # The token that closes the turn is learnt, or the model would never stop; what the
            # template puts between two turns is not.
            if last is not None and not text[ends[last] : end].strip():
                stop = last + 1  # the line break after the token that closes the turn
            elif first < stop:
                # The tags stand around the words alone, or the next turn's beginning ends this one.
                more = self.end.closes(text, ids, offsets, stop)
                is_end = self.end.is_outside or ids[stop + more - 1] == self.tokenizer.eos_token_id
                stop += more if is_end else 0
            labels[first:stop] = ids[first:stop]
        return labels
