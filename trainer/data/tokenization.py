"""Checked rows → datasets, kept as Arrow files so that a resumed job need not repeat it."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import random
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from datasets import Dataset

from trainer.config import TrainingConfig
from trainer.config.methods import METHODS
from trainer.contract.errors import ConfigError, DataError
from trainer.contract.files import read_json, replace_json
from trainer.data.chats import (
    NO_LOSS,
    ChatEncoder,
    Encoded,
    ensure_chat_template,
    leading_tokens,
    tokens_of,
)
from trainer.data.examples import example_batch
from trainer.data.formats import Chat, Example, PlainText
from trainer.data.formatting import formatting_key
from trainer.data.parsing import Row
from trainer.data.reading import Source, open_source
from trainer.data.tally import Tally
from trainer.data.validation import CheckedReading, open_eval_source

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BATCH_ROWS = 512
BATCH_CHARACTERS = 4_000_000  # so that rows of megabytes do not meet in memory
LAYOUT = 2  # raise it when the same input gives other tokens or labels than before
SCHEMA = pa.schema([(name, pa.list_(pa.int32())) for name in Encoded._fields])

log = logging.getLogger("trainer")


@dataclass(frozen=True)
class PreparedData:
    """Rows as tokens: columns `input_ids` and `labels`, both lists of int32.

    Of a method that learns from examples: columns such as `prompt`, `chosen` and `rejected`, texts
    or lists of messages, as TRL takes them.
    """

    train: Dataset
    eval: Dataset | None
    facts: dict[str, Any]
    """rows, tokens, dropped, truncated, format, sha256 of dataset.path; train_rows, eval_rows."""


def prepare_datasets(
    config: TrainingConfig, tokenizer: PreTrainedTokenizerBase, cache: Path
) -> PreparedData:
    """Tokenise the dataset, or open what an earlier run with the same input left in `cache`.

    Chats follow the tokenizer's chat template, which is set where there is none. With method sft
    rows are cut at max_length; with cpt they stay whole and are packed later.

    Args:
        config: the config.
        tokenizer: a fast tokenizer.
        cache: a folder; it is made.

    Raises:
        DataError: a row cannot be used, or too few are left.
        ConfigError: the tokenizer lacks what is needed.
    """
    _check_tokenizer(tokenizer)
    cache.mkdir(parents=True, exist_ok=True)
    source = open_source(config.dataset.path, config.dataset.subset, config.dataset.split)
    train, tally = _tokenised(source, config, tokenizer, cache)
    held_out = None
    if config.dataset.eval_path:
        held_out, _ = _tokenised(open_eval_source(config), config, tokenizer, cache)
    elif config.dataset.eval_fraction:
        train, held_out = _split(train, config.dataset.eval_fraction, config.seed)
    facts = {name: value for name, value in asdict(tally).items() if name != "file_bytes"}
    facts |= {"train_rows": len(train), "eval_rows": len(held_out) if held_out else 0}
    log.info(
        "%d rows (%s), %d tokens: %d to train on, %d held out, %d cut at max_length, %d dropped.",
        *(facts[name] for name in ("rows", "format", "tokens", "train_rows", "eval_rows")),
        *(facts[name] for name in ("truncated", "dropped")),
    )
    return PreparedData(train, held_out, facts)


def _check_tokenizer(tokenizer: PreTrainedTokenizerBase) -> None:
    name = tokenizer.name_or_path or "the model"
    if not tokenizer.is_fast:
        raise ConfigError(
            f"The tokenizer of {name} is not a fast one, which is needed to trace tokens to the text.",
            "Use a model that ships tokenizer.json.",
        )
    if tokenizer.eos_token_id is None:
        raise ConfigError(
            f"The tokenizer of {name} has no eos_token, so the model could not learn to stop.",
            "Name one in its tokenizer_config.json.",
        )


def _split(rows: Dataset, fraction: float, seed: int) -> tuple[Dataset, Dataset]:
    """Hold out the same rows for the same number of rows, fraction and seed."""
    count = max(1, round(len(rows) * fraction))
    if count >= len(rows):
        raise DataError(
            f"dataset.eval_fraction = {fraction}: of {len(rows)} usable rows none is left to "
            "train on.",
            "Add rows, or set eval_fraction: 0.",
        )
    # Not the split of datasets, whose choice may change with its version: the held-out rows must
    # stay the same over a resume on another machine.
    chosen = set(random.Random(seed).sample(range(len(rows)), count))  # noqa: S311 - no secret
    kept = [i for i in range(len(rows)) if i not in chosen]
    return rows.select(kept), rows.select(sorted(chosen))


def _tokenised(
    source: Source, config: TrainingConfig, tokenizer: PreTrainedTokenizerBase, cache: Path
) -> tuple[Dataset, Tally]:
    if config.method != "cpt":
        ensure_chat_template(tokenizer)
    # Of the content: an edited file of the same name and size must not find the old tokens.
    sha256 = source.sha256()
    key = _key(sha256, config, tokenizer)
    arrow, facts = cache / f"{key}.arrow", cache / f"{key}.json"
    tally = _earlier(arrow, facts)
    if tally is None:
        tally = Tally(sha256=sha256)
        _write(arrow, source, config, tokenizer, tally)
        # Last: an Arrow file without it is torn, and is written again.
        replace_json(facts, asdict(tally))
    if tally.rows == tally.dropped:
        raise DataError(
            f"{source.name}: none of {tally.rows:,} rows has anything to learn within max_length "
            f"= {config.max_length} tokens.",
            "Raise max_length, or check that the chat template shows the assistant's messages.",
        )
    return Dataset.from_file(str(arrow)), tally


def _earlier(arrow: Path, facts: Path) -> Tally | None:
    """Return the tally of an earlier run if its file is whole; the tally is written last."""
    known = read_json(facts)
    if known is None or not arrow.is_file() or arrow.stat().st_size != known.get("file_bytes"):
        return None
    log.info("Found the tokens of an earlier run: %s", arrow)
    return Tally(**known)


def _key(sha256: str, config: TrainingConfig, tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a name that changes with everything that the tokens and labels depend on."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    inputs = {
        "layout": LAYOUT,
        "transformers": version("transformers"),
        "tokenizers": version("tokenizers"),
        "data": sha256,
        "dataset": config.dataset.model_dump(include={"format", "columns", "max_rows"}),
        "config": config.model_dump(
            include={"method", "max_length", "max_completion_length", "assistant_only_loss"}
        ),
        "limit": _limit(config),
        "formatting": formatting_key(config),
        # Calls leave their padding and truncation in the tokenizer's state.
        "tokenizer": {**state, "padding": None, "truncation": None},
        "special": {name: str(token) for name, token in tokenizer.special_tokens_map.items()},
        "template": tokenizer.chat_template,
    }
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:32]


def _write(
    arrow: Path,
    source: Source,
    config: TrainingConfig,
    tokenizer: PreTrainedTokenizerBase,
    tally: Tally,
) -> None:
    # By process id: two jobs with one cache would otherwise write into the same file.
    temporary = arrow.with_name(f".{arrow.name}.{os.getpid()}.tmp")
    reading = CheckedReading(source, config)
    batches = _record_batches(reading, config, tokenizer, tally)
    try:
        first = next(batches)
        with temporary.open("wb") as stream, pa.ipc.new_stream(stream, first.schema) as writer:
            for batch in chain([first], batches):
                writer.write_batch(batch)
            writer.close()
            os.fsync(stream.fileno())
        tally.rows, tally.format = reading.rows, reading.format
        tally.file_bytes = temporary.stat().st_size
        temporary.replace(arrow)
    finally:
        temporary.unlink(missing_ok=True)


def _record_batches(
    reading: CheckedReading,
    config: TrainingConfig,
    tokenizer: PreTrainedTokenizerBase,
    tally: Tally,
) -> Iterator[pa.RecordBatch]:
    """Yield the rows as the method learns from them: as tokens, or as examples."""
    schema = None
    for rows in _batches(reading):
        if METHODS[config.method].learns_from_tokens:
            kept = list(_fitted(_encode(rows, config, tokenizer), config, tally))
            columns = [pa.array(column, SCHEMA.types[0]) for column in _columns(kept)]
            yield pa.record_batch(columns, schema=SCHEMA)
        else:
            batch = example_batch(rows, config, tokenizer, tally, schema)
            schema = batch.schema
            yield batch


def _columns(rows: list[Encoded]) -> tuple[list[list[int]], list[list[int]]]:
    return [row.input_ids for row in rows], [row.labels for row in rows]


def _batches(
    rows: Iterable[tuple[Row, Example]],
) -> Iterator[list[tuple[Row, Example]]]:
    batch: list[tuple[Row, Example]] = []
    characters = 0
    for row, example in rows:
        batch.append((row, example))
        characters += example.characters
        if len(batch) >= BATCH_ROWS or characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _encode(
    rows: list[tuple[Row, Example]],
    config: TrainingConfig,
    tokenizer: PreTrainedTokenizerBase,
) -> Iterator[Encoded]:
    """Yield the rows as tokens; where prompts are of both kinds, chats come first."""
    chats = [(row.place, example) for row, example in rows if isinstance(example, Chat)]
    if chats:
        encoder = ChatEncoder(tokenizer, assistant_only=config.assistant_only_loss)
        yield from encoder.encode(chats)
    texts = [example for _, example in rows if isinstance(example, PlainText)]
    if texts:
        yield from _encode_texts(texts, tokenizer, assistant_only=config.assistant_only_loss)


def _encode_texts(
    texts: list[PlainText], tokenizer: PreTrainedTokenizerBase, *, assistant_only: bool
) -> Iterator[Encoded]:
    start, eos = leading_tokens(tokenizer), tokenizer.eos_token_id
    prompts = tokens_of(tokenizer, [text.prompt for text in texts])["input_ids"]
    completions = tokens_of(tokenizer, [text.completion for text in texts])["input_ids"]
    for prompt, completion in zip(prompts, completions, strict=True):
        question = start + prompt
        # A model that never saw the end of an answer would never stop.
        answer = completion if completion[-1:] == [eos] else [*completion, eos]
        silent = [NO_LOSS] * len(question) if assistant_only and prompt else question
        yield Encoded(question + answer, silent + answer)


def _limit(config: TrainingConfig) -> int | None:
    """Return where rows are cut; documents that are to be joined and cut into blocks stay whole."""
    return None if config.method == "cpt" and config.packs else config.max_length


def _fitted(rows: Iterable[Encoded], config: TrainingConfig, tally: Tally) -> Iterator[Encoded]:
    """Yield the rows cut to max_length that still have something to learn, and count the rest."""
    limit = _limit(config)
    for row in rows:
        fitted = Encoded(row.input_ids[:limit], row.labels[:limit])
        tally.truncated += len(fitted.input_ids) < len(row.input_ids)
        # Nothing predicts the first token, so a label there teaches nothing.
        if any(label != NO_LOSS for label in fitted.labels[1:]):
            tally.tokens += len(fitted.input_ids)
            tally.longest = max(tally.longest, len(fitted.input_ids))
            yield fitted
        else:
            tally.dropped += 1
