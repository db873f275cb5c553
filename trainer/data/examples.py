"""Checked rows → examples as TRL takes them, which tokenises them itself.

A text stays a text and messages stay messages: TRL's preference and reinforcement methods put the
chat template on by themselves.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from trainer.config import TrainingConfig
from trainer.config.methods import METHODS
from trainer.contract.errors import DataError
from trainer.data.chats import leading_tokens, tokens_of
from trainer.data.formats import Chat, Example, PlainText
from trainer.data.judged import Judged, Preference, Prompt, Said
from trainer.data.parsing import Row
from trainer.data.tally import Tally

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def example_batch(
    rows: list[tuple[Row, Example]],
    config: TrainingConfig,
    tokenizer: PreTrainedTokenizerBase,
    tally: Tally,
    schema: pa.Schema | None,
) -> pa.RecordBatch:
    """Return the rows from which something can be learnt, and count the rest.

    Args:
        rows: rows of one dataset.
        config: the config; `max_length` matters.
        tokenizer: to count by.
        tally: is added to.
        schema: of the batches before; None: this is the first.

    Raises:
        DataError: the rows do not have the same kind of columns.
    """
    # Only kto: a pair says of one answer that it is good, of the other that it is bad.
    unpair = "unpaired" in METHODS[config.method].formats
    examples = [columns for row in rows for columns in _columns(row[1], unpair=unpair)]
    counts = _lengths(examples, tokenizer)
    try:
        # The first batch fixes the types: a column that is a text here and a list there cannot be
        # one column.
        batch = pa.RecordBatch.from_pylist(examples, schema=schema)
    except pa.ArrowException as error:
        raise DataError(
            f"{rows[0][0].place} and the rows after it are not laid out as those before: {error}.",
            "Give every column texts only, or lists of messages only, in all rows.",
        ) from error
    # Behind a prompt that fills max_length nothing of any answer would be seen.
    generated = config.max_completion_length - 1 if METHODS[config.method].generates else 0
    kept = [prompt < config.max_length - generated for prompt, _ in counts]
    whole = [sum(count) for count, is_kept in zip(counts, kept, strict=True) if is_kept]
    fitted = [min(length, config.max_length) for length in whole]
    tally.dropped += len(kept) - len(whole)
    tally.truncated += sum(length > config.max_length for length in whole)
    tally.tokens += sum(fitted)
    tally.longest = max([tally.longest, *fitted])
    return batch.filter(pa.array(kept))


def _columns(example: Example, *, unpair: bool) -> Iterator[dict[str, Any]]:
    """Yield what TRL reads; to a method that takes single answers a pair is two of them."""
    match example:
        case Preference(prompt, chosen, rejected) if unpair:
            yield {"prompt": prompt, "completion": chosen, "label": True}
            yield {"prompt": prompt, "completion": rejected, "label": False}
        case Preference(prompt, chosen, rejected):
            yield {"prompt": prompt, "chosen": chosen, "rejected": rejected}
        case Judged(prompt, completion, label):
            yield {"prompt": prompt, "completion": completion, "label": label}
        case Prompt(prompt, others):
            yield {**others, "prompt": prompt}
        case Chat() | PlainText():
            raise TypeError(f"{type(example).__name__} is learnt from as tokens")


def _lengths(
    examples: list[dict[str, Any]], tokenizer: PreTrainedTokenizerBase
) -> list[tuple[int, int]]:
    """Return the tokens of each prompt and of its longest answer, about as TRL will have them."""
    prompts = _count([example["prompt"] for example in examples], tokenizer)
    longest = [0] * len(examples)
    for name in ("chosen", "rejected", "completion"):
        answers = [example[name] for example in examples if name in example]
        if answers:
            counted = _count(answers, tokenizer)
            longest = [max(pair) for pair in zip(longest, counted, strict=True)]
    return list(zip(prompts, longest, strict=True))


def _count(said: list[Said], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    texts = [
        text if isinstance(text, str) else tokenizer.apply_chat_template(text, tokenize=False)
        for text in said
    ]
    start = len(leading_tokens(tokenizer))
    return [start + len(ids) for ids in tokens_of(tokenizer, texts)["input_ids"]]
