"""Texts with labels → tokens: the very ones that the tokenizer gives to whoever asks for a class."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from trainer.data.labelled import Labelled
from trainer.data.templates import ChatTemplate

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BETWEEN = "\n\n"
"""What stands between two texts where the tokenizer has no token for that."""


class Tokens(NamedTuple):
    """A row's tokens."""

    ids: list[int]
    segments: list[int] | None
    """Which of two texts each belongs to, for models that want to know."""
    length: int
    """Before they were cut."""


class LabelledEncoder:
    """Tokenises texts, pairs and chats, and cuts them where they are too long."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, limit: int) -> None:
        self._tokenizer = tokenizer
        # Where a tokenizer knows how much its model takes; others give a number without bounds.
        self.limit = min(limit, tokenizer.model_max_length)
        self._keeps_apart = parts_of_pair(tokenizer)

    def encode(self, examples: Sequence[tuple[str, Labelled]]) -> Iterator[Tokens]:
        """Yield the tokens of each example.

        Raises:
            DataError: the chat template refuses a chat.
        """
        for place, example in examples:
            if not example.texts:
                template = ChatTemplate(self._tokenizer)
                with template.refusals(place, example.messages):
                    text = template.render(example.messages, example.tools)
                # The template has put special tokens there already.
                yield self._tokens(text, add_special_tokens=False)
            elif len(example.texts) == 2 and not self._keeps_apart:
                yield self._tokens(BETWEEN.join(example.texts))
            else:
                yield self._tokens(*example.texts)

    def _tokens(self, *texts: str, **options: bool) -> Tokens:
        found = self._call(*texts, **options)
        length = len(found["input_ids"])
        if length > self.limit:
            # By the tokenizer, which keeps the tokens that it puts at the end.
            found = self._call(*texts, truncation=True, max_length=self.limit, **options)
            # Else it would cut for everybody to whom it is given with the result.
            self._tokenizer.backend_tokenizer.no_truncation()
        return Tokens(found["input_ids"], found.get("token_type_ids"), length)

    def _call(self, *texts: str, **options: Any) -> dict[str, Any]:
        found: dict[str, Any] = self._tokenizer(
            *texts, return_attention_mask=False, verbose=False, **options
        )
        return found


def parts_of_pair(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer itself puts something between two texts."""
    alone, both = (tokenizer.num_special_tokens_to_add(pair=pair) for pair in (False, True))
    return bool(both > alone)
