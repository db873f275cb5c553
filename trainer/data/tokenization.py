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
from trainer.data.encoding import RowEncoder, limit_of, with_same_columns
from trainer.data.endings import turn_end
from trainer.data.formats import Example
from trainer.data.formatting import formatting_key
from trainer.data.parsing import Row
from trainer.data.reading import Source, open_evaluation, open_training
from trainer.data.tally import LEFT_OUT, Tally, reasons
from trainer.data.templates import ensure_chat_template, is_default
from trainer.data.validation import CheckedReading

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BATCH_ROWS = 512
BATCH_CHARACTERS = 4_000_000  # so that rows of megabytes do not meet in memory
LAYOUT = 5  # raise it when the same input gives other tokens or labels than before

log = logging.getLogger("trainer")


@dataclass(frozen=True)
class PreparedData:
    """Rows as tokens, in columns such as `input_ids` and `labels`; see `encoding.SCHEMAS`.

    Of a method that generates: `prompt`, a text or a list of messages, and whatever else the rows
    hold.
    """

    train: Dataset
    eval: Dataset | None
    facts: dict[str, Any]
    """Of dataset.path, see `Tally`; and train_rows, eval_rows, plain_template (`is_default`),
    turn_end (where there are chats: the token that ends the assistant's turn);
    evaluation: the same of the rows to evaluate on, where they are apart."""


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
    train, tally = _tokenised(open_training(config.dataset), config, tokenizer, cache)
    held_out, told_of = None, {}
    if config.dataset.has_evaluation:
        source = open_evaluation(config.dataset)
        held_out, of_eval = _tokenised(source, config, tokenizer, cache)
        told_of = {"evaluation": _facts(of_eval)}
    elif config.dataset.eval_fraction:
        train, held_out = _split(train, config.dataset.eval_fraction, config.seed)
    facts = _facts(tally) | told_of
    facts |= {"train_rows": len(train), "eval_rows": len(held_out) if held_out else 0}
    facts["plain_template"] = is_default(tokenizer)
    if tally.chats and not METHODS[config.method].is_classifier:
        facts["turn_end"] = _turn_end(tokenizer)
    return PreparedData(train, held_out, facts)


def _turn_end(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Return the token at which a model that learned from chats stops; None: there is none."""
    stop = turn_end(tokenizer).stop
    return None if stop is None else str(tokenizer.convert_ids_to_tokens(stop))


def _facts(tally: Tally) -> dict[str, Any]:
    return {name: value for name, value in asdict(tally).items() if name != "file_bytes"}


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
    if not tally.kept:
        raise DataError(
            f"{source.name}: none of {tally.rows:,} rows can be learned from within max_length = "
            f"{config.max_length} tokens ({reasons(tally.why)}).",
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
        "trl": version("trl"),
        "data": sha256,
        "dataset": config.dataset.model_dump(
            include={"format", "columns", "roles", "on_bad_row", "max_rows"}
        ),
        "config": config.model_dump(
            include={
                "method",
                "max_length",
                "max_completion_length",
                "assistant_only_loss",
                "learn",
            }
        ),
        "limit": limit_of(config),
        "truncation_mode": config.arguments.get("truncation_mode"),
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
    encoder = RowEncoder(config, tokenizer)
    batches: Iterator[pa.RecordBatch] = (encoder.batch(rows, tally) for rows in _batches(reading))
    if METHODS[config.method].generates:
        batches = with_same_columns(batches)
    try:
        first = next(batches)
        with temporary.open("wb") as stream, pa.ipc.new_stream(stream, first.schema) as writer:
            for batch in chain([first], batches):
                writer.write_batch(batch)
            writer.close()
            os.fsync(stream.fileno())
        tally.rows, tally.format = reading.rows + reading.left_out, reading.format
        tally.skip(reading.bad_rows, reading.problems)
        for _ in range(reading.left_out):
            tally.drop(LEFT_OUT)
        tally.unread |= reading.unread
        tally.file_bytes = temporary.stat().st_size
        temporary.replace(arrow)
    finally:
        temporary.unlink(missing_ok=True)


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
