"""The tokenizer's chat template: what it makes of messages, and the error where it refuses them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, TemplateError
from transformers.utils.chat_template_utils import render_jinja_template

from trainer.contract.errors import DataError
from trainer.data.calls import with_texts
from trainer.data.texts import leading_tokens
from trainer.data.turns import END_OF_THOUGHTS, START_OF_THOUGHTS, THOUGHTS, Message

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


def training_variant(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Return what TRL renders chats for training by in place of this very template; None: nothing."""
    # Imported here: few models need it.
    from trl.chat_template_utils import get_training_chat_template

    try:
        variant: str | None = get_training_chat_template(tokenizer)
    except (TemplateError, TypeError, ValueError):  # it knows no variant
        return None
    return variant


class ChatTemplate:
    """Renders messages as text; see `transformers.PreTrainedTokenizerBase.apply_chat_template`."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, source: str | None = None) -> None:
        self.tokenizer = tokenizer
        self.source: str = source or tokenizer.get_chat_template()
        # Some models have a second one for chats with tools.
        self._with_tools: str = source or tokenizer.get_chat_template(tools=[{}])
        self._takes_texts = False
        """Whether the arguments of calls are given as texts, for templates that put them in as such."""

    @property
    def name(self) -> str:
        """What messages call the tokenizer."""
        return self.tokenizer.name_or_path or "the tokenizer"

    @cached_property
    def words(self) -> frozenset[str]:
        """Every name and every text in the template's code; what it reads of a message is there."""
        # Of a variant too: it may have no word for what the template itself takes out of a content.
        own = (self.tokenizer.get_chat_template(), self.tokenizer.get_chat_template(tools=[{}]))
        code = "".join({self.source, self._with_tools, *own})
        tokens = [(kind, value) for _, kind, value in Environment().lex(code)]  # noqa: S701 - no HTML
        names = {value for kind, value in tokens if kind == "name"}
        return frozenset(names | {value[1:-1] for kind, value in tokens if kind == "string"})

    def common(self, first: str, second: str) -> int:
        """Return how many characters both texts begin with, of no special token a part only."""
        shared = common(first, second)
        cuts = (
            marker.start()
            for text in (first, second)
            for marker in self._markers.finditer(text)
            if marker.start() < shared < marker.end()
        )
        return min(cuts, default=shared)

    @cached_property
    def _markers(self) -> re.Pattern[str]:
        special = sorted(map(str, self.tokenizer.added_tokens_decoder.values()), key=len)
        return re.compile("|".join(map(re.escape, reversed(special))) or r"(?!)")

    def unread(self, messages: Iterable[Message]) -> Iterator[str]:
        """Yield the name of every part of a message that the template does not read."""
        for message in messages:
            for key in message:
                # The content of all of these is looked for in what is rendered.
                if key not in self.words and key not in {
                    "role",
                    "content",
                    "tool_calls",
                    THOUGHTS[0],
                }:
                    yield key

    def render(
        self, messages: list[Message], tools: list[dict[str, Any]], *, prompt: bool = False
    ) -> str:
        """Return the text of a chat; with `prompt`, up to where the assistant begins to answer."""
        (text,), _ = self._call(messages, tools, add_generation_prompt=prompt)
        return str(text)

    def render_tagged(
        self, messages: list[Message], tools: list[dict[str, Any]]
    ) -> tuple[str, list[Span]]:
        """Return the text, and the parts of it that stand in {% generation %}, in characters."""
        (text,), (spans,) = self._call(messages, tools, return_assistant_tokens_mask=True)
        return str(text), spans

    @contextmanager
    def refusals(self, place: str, messages: list[Message]) -> Iterator[None]:
        """Name the row where the template refuses a chat.

        Raises:
            DataError: it does.
        """
        try:
            yield
        except (TemplateError, TypeError, ValueError, KeyError, IndexError) as error:
            has_system = messages[0]["role"] == "system"
            way = "put the system message into the first user's turn" if has_system else "change it"
            raise DataError(
                f"{place}: the chat template of {self.name} refuses this chat: "
                f"{str(error).rstrip('.')}.",
                f"Where it is right to refuse it, {way}; else use a model whose template takes it.",
            ) from error

    def _call(self, messages: list[Message], tools: list[dict[str, Any]], **options: bool) -> Any:
        said = [self._as_read(message) for message in messages]
        if self._takes_texts or not any("tool_calls" in message for message in said):
            return self._rendered(said, tools, **options)
        try:
            rendered = self._rendered(said, tools, **options)
        except TypeError:
            fits = False
        else:
            # A template that puts an object into its text writes it as Python does.
            given = [c["function"]["arguments"] for m in said for c in m.get("tool_calls", ())]
            fits = not any(each and str(each) in rendered[0][0] for each in given)
        if fits:
            return rendered
        self._takes_texts = True
        return self._rendered(said, tools, **options)

    def _rendered(
        self, messages: list[Message], tools: list[dict[str, Any]], **options: bool
    ) -> Any:
        # `apply_chat_template` calls this too. Its own mask of tokens is not used: where a tagged
        # part ends in a space that belongs to no token's offsets, it marks all the rest of the
        # chat.
        return render_jinja_template(
            conversations=[[with_texts(m) for m in messages] if self._takes_texts else messages],
            tools=tools or None,
            chat_template=self._with_tools if tools else self.source,
            **options,
            **self.tokenizer.special_tokens_map,
        )

    def _as_read(self, message: Message) -> Message:
        """Return a message whose thoughts have the name that the template knows them by."""
        if THOUGHTS[0] not in message:
            return message
        known = next((name for name in THOUGHTS if name in self.words), None)
        if known is None and END_OF_THOUGHTS in self.words:
            thoughts, rest = message[THOUGHTS[0]], message.get("content", "")
            said = f"{START_OF_THOUGHTS}\n{thoughts}\n{END_OF_THOUGHTS}\n\n{rest}"
            return {k: v for k, v in message.items() if k != THOUGHTS[0]} | {"content": said}
        known = known or THOUGHTS[0]
        return {known if key == THOUGHTS[0] else key: value for key, value in message.items()}


def common(first: Sequence[object], second: Sequence[object]) -> int:
    """Return how many items, or characters, both begin with."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(first), len(second)))
