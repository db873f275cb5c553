"""Judged answers → tokens: what the preference methods learn from, all from one rendering.

The prompt is never rendered without what follows it, nor an answer alone: many templates refuse a
chat that begins with the assistant, and others render it differently.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from trainer.contract.errors import DataError
from trainer.data.endings import turn_end
from trainer.data.formats import Chat
from trainer.data.judged import Said
from trainer.data.spans import Turns
from trainer.data.templates import ChatTemplate, common
from trainer.data.texts import Answered, answered, first_after, tokens_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SEAM = 4
"""How many tokens at a prompt's end an answer may change: one may reach from it into the answer."""


class Asked(NamedTuple):
    """A prompt and one answer to it."""

    place: str
    """Where it came from."""
    prompt: Said
    answer: Said
    tools: list[dict[str, Any]]


class AnswerEncoder:
    """Puts prompts and answers together as the model will see them."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._template = ChatTemplate(tokenizer)
        self.turns = Turns(self._template)
        self._end = turn_end(tokenizer)

    def encode(self, asked: Sequence[Asked]) -> list[Answered]:
        """Return each prompt with its answer as tokens.

        Raises:
            DataError: the template refuses a chat, leaves something out of it, or does not show
                where the answer begins.
        """
        texts = [(str(one.prompt), str(one.answer)) for one in asked if _is_text(one)]
        of_texts = answered(self._tokenizer, texts) if texts else iter(())
        of_chats = self._chats([one for one in asked if not _is_text(one)])
        return [next(of_texts if _is_text(one) else of_chats) for one in asked]

    def _chats(self, chats: Sequence[Asked]) -> Iterator[Answered]:
        rendered = [self._rendered(chat) for chat in chats]
        tokens = tokens_of(self._tokenizer, [text for text, _ in rendered]) if rendered else {}
        for (text, start), ids, offsets in zip(
            rendered, tokens.get("input_ids", []), tokens.get("offset_mapping", []), strict=True
        ):
            whole = self._end.added_to(text, ids, offsets)
            yield Answered(whole, first_after([end for _, end in offsets], start))

    def _rendered(self, one: Asked) -> tuple[str, int]:
        chat = Chat([*one.prompt, *one.answer], one.tools)

        def rendered(turns: Turns) -> tuple[str, int]:
            text = turns.text(one.place, chat)
            return text, turns.start(one.place, text, chat, len(one.prompt))

        with self._template.refusals(one.place, chat.messages):
            return self.turns.whole(rendered)


def _is_text(one: Asked) -> bool:
    return isinstance(one.prompt, str)


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
