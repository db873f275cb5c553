"""Judged answers → tokens: what the preference methods learn from, all from one rendering.

The prompt is never rendered without what follows it, nor an answer alone: many templates refuse a
chat that begins with the assistant, and others render it differently.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from trainer.contract.errors import DataError
from trainer.data.chats import Turns, common
from trainer.data.judged import Said
from trainer.data.templates import ChatTemplate, Message
from trainer.data.texts import Answered, answered, first_after, tokens_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SEAM = 4
"""How many tokens at a prompt's end an answer may change: one may reach from it into the answer."""
Asked = tuple[str, Said, Said]
"""Where it came from, the prompt, and an answer to it."""


class AnswerEncoder:
    """Puts prompts and answers together as the model will see them."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._template = ChatTemplate(tokenizer)
        self._turns = Turns(self._template)

    def encode(self, asked: Sequence[Asked]) -> list[Answered]:
        """Return each prompt with its answer as tokens.

        Raises:
            DataError: the template refuses a chat, or does not show where the answer begins.
        """
        texts = [(p, a) for _, p, a in asked if isinstance(p, str) and isinstance(a, str)]
        chats = [(o, p, a) for o, p, a in asked if isinstance(p, list) and isinstance(a, list)]
        of_texts, of_chats = answered(self._tokenizer, texts), self._chats(chats)
        return [next(of_texts if isinstance(prompt, str) else of_chats) for _, prompt, _ in asked]

    def _chats(
        self, chats: Sequence[tuple[str, list[Message], list[Message]]]
    ) -> Iterator[Answered]:
        rendered = [self._rendered(*chat) for chat in chats]
        tokens = tokens_of(self._tokenizer, [text for text, _ in rendered]) if rendered else {}
        for (_, start), ids, offsets in zip(
            rendered, tokens.get("input_ids", []), tokens.get("offset_mapping", []), strict=True
        ):
            yield Answered(ids, first_after([end for _, end in offsets], start))

    def _rendered(
        self, place: str, prompt: list[Message], answer: list[Message]
    ) -> tuple[str, int]:
        with self._template.refusals(place):
            text = self._template.render(prompt + answer)
            return text, self._turns.start(place, text, prompt + answer, len(prompt))


def one_prompt(place: str, better: Answered, worse: Answered) -> int:
    """Return how many tokens of both are their prompt.

    Raises:
        DataError: they do not begin with the same prompt.
    """
    asked = min(better.asked, worse.asked)
    shared = common(better.ids[:asked], worse.ids[:asked])
    if max(better.asked, worse.asked) - shared > SEAM:
        raise DataError(
            f"{place}: the chat template renders the prompt differently before each of the answers.",
            "Give both answers the same number of messages, or remove the row.",
        )
    return shared
