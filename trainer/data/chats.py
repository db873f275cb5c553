"""Chats → tokens, and which of the tokens the assistant said."""

from __future__ import annotations

import logging
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from jinja2 import TemplateError
from transformers.utils.chat_template_utils import render_jinja_template

from trainer.contract.errors import DataError
from trainer.data.formats import Chat

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NO_LOSS = -100
"""The label of a token that is not learnt; torch's cross entropy ignores it."""
GENERATION_TAG = re.compile(r"\{%-?\s*generation\s*-?%\}")
PROBE = "\ue000\ue001\ue002"
"""Stands in for a content; private-use characters, which no template and hardly a text holds."""
DEFAULT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% set said = message.get('content') or '' %}"
    "{% if message.get('tool_calls') %}{% set said = said + message['tool_calls'] | tojson %}{% endif %}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ said + eos_token }}{% endgeneration %}"
    "{% else %}{{ said + eos_token }}{% endif %}"
    "{{ '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""For tokenizers without a template: ChatML, but turns end in the token that ends generation."""
REMEDY = "Set assistant_only_loss: false, or give the model a chat template with {% generation %}."

Message = dict[str, Any]
Span = tuple[int, int]
log = logging.getLogger("trainer")


class Encoded(NamedTuple):
    """One row, ready to learn from; both lists have the same length."""

    input_ids: list[int]
    labels: list[int]
    """The token itself, or NO_LOSS."""


def ensure_chat_template(tokenizer: PreTrainedTokenizerBase) -> None:
    """Give a tokenizer that has no chat template the default one."""
    if tokenizer.chat_template is None:
        # A template speaks for all special tokens: nothing else adds the one at the beginning.
        start = "{{ bos_token }}" if leading_tokens(tokenizer) else ""
        tokenizer.chat_template = start + DEFAULT_TEMPLATE
        # Written into the tokenizer, and so saved with the result, which is prompted the same way.
        log.info("The tokenizer has no chat template; it gets a plain ChatML one.")


def leading_tokens(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return [bos] if the tokenizer starts every text with it by itself, else []."""
    bos = tokenizer.bos_token_id
    return [bos] if bos is not None and tokenizer("a")["input_ids"][:1] == [bos] else []


def tokens_of(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> Any:
    """Return `input_ids` and `offset_mapping` of all texts, with no special token added."""
    return tokenizer(
        texts,
        add_special_tokens=False,
        return_offsets_mapping=True,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,  # else it warns of every text that is longer than the model's context
    )


class ChatEncoder:
    """Renders chats with the tokenizer's chat template and labels the assistant's tokens."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, assistant_only: bool) -> None:
        self.tokenizer = tokenizer
        self.assistant_only = assistant_only
        self.template: str = tokenizer.get_chat_template()
        self.has_generation_tags = GENERATION_TAG.search(self.template) is not None
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
        try:
            if not self.assistant_only:
                return self._render(messages), []
            if self.has_generation_tags:
                text, spans = self._render_tagged(messages)
            else:
                text = self._render(messages)
                spans = [self._span(place, text, messages, i) for i in _assistants(messages)]
        except (TemplateError, TypeError, ValueError) as error:
            raise DataError(
                f"{place}: the chat template of {self._name} refuses this chat: {error}.",
                "Correct the row, or use a model whose template takes such chats.",
            ) from error
        return text, spans

    def _span(self, place: str, text: str, messages: list[Message], i: int) -> Span:
        """Return what message `i` adds after the prompt that a model would be given for it."""
        before = self._prompt_for(messages, i)
        until = self._render(messages[: i + 1])
        # The rendering up to here is a prefix of the whole chat: the usual case.
        if text.startswith(until):
            end: int | None = len(until)
        else:
            end = self._end_by_probe(text, messages, i)
        if not before or not text.startswith(before) or end is None or end < len(before):
            raise DataError(
                f"{place}: the chat template of {self._name} renders part of this chat "
                "differently from the whole, so the assistant's part cannot be located.",
                REMEDY,
            )
        return len(before), end

    def _prompt_for(self, messages: list[Message], i: int) -> str:
        """Return the text up to where the assistant begins message `i`; empty if unknown."""
        if i > 0:
            return self._render(messages[:i], prompt=True)
        # Templates take no empty chat; the text that prompts for an answer is looked for instead.
        alone = self._render(messages[:1])
        # What the template appends to ask for an answer is what it puts before every answer.
        header = self._render(messages[:1], prompt=True).removeprefix(alone)
        start, found, _ = alone.partition(header) if header else (alone, "", "")
        return start + found if found else ""

    def _end_by_probe(self, text: str, messages: list[Message], i: int) -> int | None:
        """Find the end where templates render the last turn otherwise, such as with its thoughts.

        With the content exchanged for a probe, what follows the probe in the whole chat is what
        follows the content; and what follows it in the chat up to here is what closes the turn.
        """
        probed = [*messages[:i], {**messages[i], "content": PROBE}, *messages[i + 1 :]]
        _, found, rest = self._render(probed).rpartition(PROBE)
        _, _, closing = self._render(probed[: i + 1]).rpartition(PROBE)
        if not found or not text.endswith(rest) or not rest.startswith(closing):
            return None
        return len(text) - len(rest) + len(closing)

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

    def _render(self, messages: list[Message], *, prompt: bool = False) -> str:
        (text,), _ = self._call_template(messages, add_generation_prompt=prompt)
        return str(text)

    def _render_tagged(self, messages: list[Message]) -> tuple[str, list[Span]]:
        (text,), (spans,) = self._call_template(messages, return_assistant_tokens_mask=True)
        return text, spans

    def _call_template(self, messages: list[Message], **options: bool) -> Any:
        # `apply_chat_template` calls this too. Its own mask of tokens is not used: where a tagged
        # part ends in a space that belongs to no token's offsets, it marks all the rest of the
        # chat.
        return render_jinja_template(
            conversations=[messages],
            chat_template=self.template,
            **options,
            **self.tokenizer.special_tokens_map,
        )

    @property
    def _name(self) -> str:
        return self.tokenizer.name_or_path or "the tokenizer"


def _assistants(messages: list[Message]) -> list[int]:
    return [i for i, message in enumerate(messages) if message["role"] == "assistant"]
