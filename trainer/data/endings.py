"""What ends the assistant's turn: the token at which a model that learned from chats stops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jinja2 import TemplateError

from trainer.contract.errors import DataError
from trainer.data.formats import Chat
from trainer.data.spans import Turns
from trainer.data.templates import ChatTemplate, Span
from trainer.data.texts import tokens_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

WORDS = [f"\ue010{i}\ue011" for i in range(4)]
"""What is said in `CHAT`: private-use characters, which no template holds, and each once."""
CHAT = Chat(
    [
        {"role": role, "content": said}
        for role, said in zip(("user", "assistant") * 2, WORDS, strict=True)
    ]
)


@dataclass(frozen=True)
class TurnEnd:
    """How a template ends the assistant's turns."""

    special: frozenset[int]
    """All special tokens."""
    stop: int | None = None
    """At which a model stops that has learned from such chats; None: at no token of the template."""
    is_outside: bool = False
    """Whether it stands outside of the turn: behind the tags, or where the next turn begins."""

    def closes(self, text: str, ids: Sequence[int], offsets: Sequence[Span], start: int) -> int:
        """Return how many tokens from one on end a turn there; 0: none does.

        Args:
            text: of the chat.
            ids: its tokens.
            offsets: where they stand in the text.
            start: the first token after what is said.
        """
        for i in range(start, len(ids)):
            if ids[i] in self.special:
                return i + 1 - start
            if text[slice(*offsets[i])].strip():
                return 0
        return 0

    def added_to(self, text: str, ids: list[int], offsets: Sequence[Span]) -> list[int]:
        """Return the tokens of a chat; the end is added where it ends with what is said and no more."""
        if not self.is_outside or self.stop is None:
            return ids
        said = (i for i in range(len(ids) - 1, -1, -1) if text[slice(*offsets[i])].strip())
        return ids if ids[next(said, -1)] in self.special else [*ids, self.stop]


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Return the special tokens of a tokenizer."""
    added = tokenizer.added_tokens_decoder.items()
    # Some models add their turn markers as added tokens only, marked special.
    return frozenset({*tokenizer.all_special_ids, *(i for i, token in added if token.special)})


def turn_end(tokenizer: PreTrainedTokenizerBase) -> TurnEnd:
    """Return how the tokenizer's chat template ends the assistant's turns."""
    plain = TurnEnd(special_tokens(tokenizer))
    try:
        text, spans = Turns(ChatTemplate(tokenizer)).of("", CHAT)
    # A template may take no such chat; then what it does with the rows' own chats is all there is.
    except (DataError, TemplateError, TypeError, ValueError, KeyError, IndexError):
        return plain
    tokens = tokens_of(tokenizer, [text])
    ids, offsets = tokens["input_ids"][0], tokens["offset_mapping"][0]

    def end_of(turn: int) -> int | None:
        after = next((i for i, (first, _) in enumerate(offsets) if first >= said[turn]), len(ids))
        count = plain.closes(text, ids, offsets, after)
        return after + count - 1 if count else None

    said = [text.find(word) + len(word) for word in WORDS]
    # The last turn of a chat may end in another token than those before, at which a model stops.
    first, last = end_of(1), end_of(3)
    if first is None:
        return plain
    begins = offsets[first][0]
    is_outside = not any(start <= begins < end for start, end in spans)
    return TurnEnd(plain.special, ids[first if last is None else last], is_outside=is_outside)
