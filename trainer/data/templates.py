"""The tokenizer's chat template: what it makes of messages, and the error where it refuses them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError
from transformers.utils.chat_template_utils import render_jinja_template

from trainer.contract.errors import DataError
from trainer.data.texts import leading_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

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

Message = dict[str, Any]
Span = tuple[int, int]


def ensure_chat_template(tokenizer: PreTrainedTokenizerBase) -> None:
    """Give a tokenizer that has no chat template the default one."""
    if tokenizer.chat_template is None:
        # A template speaks for all special tokens: nothing else adds the one at the beginning.
        start = "{{ bos_token }}" if leading_tokens(tokenizer) else ""
        # Written into the tokenizer, and so saved with the result, which is prompted the same way.
        tokenizer.chat_template = start + DEFAULT_TEMPLATE


def is_default(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the template is the one that `ensure_chat_template` gives."""
    return isinstance(t := tokenizer.chat_template, str) and t.endswith(DEFAULT_TEMPLATE)


class ChatTemplate:
    """Renders messages as text; see `transformers.PreTrainedTokenizerBase.apply_chat_template`."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self.source: str = tokenizer.get_chat_template()

    @property
    def name(self) -> str:
        """What messages call the tokenizer."""
        return self.tokenizer.name_or_path or "the tokenizer"

    def render(self, messages: list[Message], *, prompt: bool = False) -> str:
        """Return the text of a chat; with `prompt`, up to where the assistant begins to answer."""
        (text,), _ = self._call(messages, add_generation_prompt=prompt)
        return str(text)

    def render_tagged(self, messages: list[Message]) -> tuple[str, list[Span]]:
        """Return the text, and the parts of it that stand in {% generation %}, in characters."""
        (text,), (spans,) = self._call(messages, return_assistant_tokens_mask=True)
        return str(text), spans

    @contextmanager
    def refusals(self, place: str) -> Iterator[None]:
        """Name the row where the template refuses a chat.

        Raises:
            DataError: it does.
        """
        try:
            yield
        except (TemplateError, TypeError, ValueError, KeyError, IndexError) as error:
            raise DataError(
                f"{place}: the chat template of {self.name} refuses this chat: {error}.",
                "Correct the row, or use a model whose template takes such chats.",
            ) from error

    def _call(self, messages: list[Message], **options: bool) -> Any:
        # `apply_chat_template` calls this too. Its own mask of tokens is not used: where a tagged
        # part ends in a space that belongs to no token's offsets, it marks all the rest of the
        # chat.
        return render_jinja_template(
            conversations=[messages],
            chat_template=self.source,
            **options,
            **self.tokenizer.special_tokens_map,
        )
