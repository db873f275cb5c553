"""Texts → tokens: what begins a text, what ends it, and where a prompt becomes its answer."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Answered(NamedTuple):
    """A prompt and its answer as one sequence of tokens."""

    ids: list[int]
    asked: int
    """How many of the tokens, from the first, are the prompt's alone."""


def tokens_of(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> Any:
    """Return `input_ids` and `offset_mapping` of all texts, with no special token added."""
    return tokenizer(
        list(texts),
        add_special_tokens=False,
        return_offsets_mapping=True,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,  # else it warns of every text that is longer than the model's context
    )


def leading_tokens(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return what the tokenizer puts before every text by itself: mostly [bos], or nothing."""
    whole: list[int] = tokenizer("a")["input_ids"]
    bare: list[int] = tokenizer("a", add_special_tokens=False)["input_ids"]
    found = (i for i in range(len(whole)) if whole[i : i + len(bare)] == bare)
    return whole[: next(found, 0)]


def answered(
    tokenizer: PreTrainedTokenizerBase, pairs: Sequence[tuple[str, str]]
) -> Iterator[Answered]:
    """Yield each prompt with its answer, from the first token that a model gets to the last.

    Both are one text to the tokenizer: two that are tokenised apart and put together are other
    tokens than a model meets, such as two spaces where there is one.
    """
    start, eos = leading_tokens(tokenizer), tokenizer.eos_token_id
    tokens = tokens_of(tokenizer, [prompt + answer for prompt, answer in pairs])
    for (prompt, _), ids, offsets in zip(
        pairs, tokens["input_ids"], tokens["offset_mapping"], strict=True
    ):
        # A text that begins with the token by itself, such as "<s>[INST] …", has it once.
        begun = begin(ids, start)
        asked = first_after([end for _, end in offsets], len(prompt)) + len(begun) - len(ids)
        # A model that never saw the end of an answer would never stop.
        yield Answered(begun if begun[-1:] == [eos] else [*begun, eos], asked if prompt else 0)


def begin(ids: list[int], start: list[int]) -> list[int]:
    """Return `ids` behind `start`, which stands there once."""
    return ids if ids[: len(start)] == start else start + ids


def first_after(ends: Sequence[int], character: int) -> int:
    """Return the first token that reaches beyond a character, by where the tokens end.

    A token that begins in the prompt and ends in the answer is the answer's: without it the first
    word would not be learnt.
    """
    return bisect_right(ends, character)
