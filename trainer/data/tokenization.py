"""Checked rows → datasets, kept as Arrow files so that a resumed job need not repeat it."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from datasets import Dataset, DatasetDict, concatenate_datasets

from trainer.config import TrainingConfig
from trainer.config.methods import METHODS
from trainer.contract.errors import ConfigError, DataError
from trainer.contract.files import read_json, replace_json
from trainer.contract.world import own_rank
from trainer.data.encoding import RowEncoder, in_batches, limit_of, with_same_columns
from trainer.data.endings import turn_end
from trainer.data.formatting import formatting_key
from trainer.data.mixed_stream import MixedStream
from trainer.data.mixing import mixed_order, rows_of_epoch
from trainer.data.problems import naming
from trainer.data.reading import Source, open_evaluation, open_training
from trainer.data.streaming import Streamed
from trainer.data.tally import LEFT_OUT, Tally, merged, nothing_left
from trainer.data.templates import ensure_chat_template, is_default
from trainer.data.validation import CheckedReading
from trainer.data.weights import unweighted
from trainer.engine.stream import Stream

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LAYOUT = 8  # raise it when the same input gives other tokens or labels than before

log = logging.getLogger("trainer")


@dataclass(frozen=True)
class PreparedData:
    """Rows as tokens, in columns such as `input_ids` and `labels`; see `encoding.SCHEMAS`.

    Of a method that generates: `prompt`, a text or a list of messages, and whatever else the rows
    hold.
    """

    train: Dataset | Stream
    eval: Dataset | DatasetDict | None
    """Of several data sets, those to evaluate on by their names."""
    facts: dict[str, Any]
    """Of all rows, see `Tally`; and train_rows, eval_rows, plain_template (`is_default`),
    turn_end (where there are chats: the token that ends the assistant's turn);
    evaluation: the same of the rows to evaluate on, where they are apart;
    sources: the same of each of several data sets, with its name, and the rows and share of an epoch."""


@dataclass(frozen=True)
class PreparedSource:
    """One data set as tokens."""

    train: Dataset | Streamed
    eval: Dataset | None
    tally: Tally
    evaluation: Tally | None

    @property
    def facts(self) -> dict[str, Any]:
        """What became of its rows."""
        held_out = {"evaluation": _facts(self.evaluation)} if self.evaluation else {}
        counts = {"train_rows": len(self.train), "eval_rows": len(self.eval) if self.eval else 0}
        return _facts(self.tally) | held_out | counts


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
    _check_tokenizer(tokenizer, config)
    cache.mkdir(parents=True, exist_ok=True)
    parts = []
    for name, dataset in config.dataset.named():
        with naming(name):
            one = config.model_copy(update={"dataset": dataset})
            parts.append(_part(one, tokenizer, cache))
    train, held_out, facts = parts[0].train, parts[0].eval, parts[0].facts
    if config.dataset.sources:
        train, held_out, facts = _mixed(parts, config)
    # Where rows are held out the loss is that of the tokens as they are.
    # Prompts may have such a column for reward functions.
    weighs = METHODS[config.method].learns_from_tokens
    held_out = unweighted(held_out) if held_out and weighs else held_out
    if isinstance(train, Stream):
        # The longest row is still to come, perhaps, and one with the last of all tokens.
        facts |= {"longest": config.max_length, "highest": max(tokenizer.get_vocab().values())}
        facts["streamed_pieces_of"] = train.piece
    elif weighs and not facts["weighted"]:
        train = unweighted(train)
    return PreparedData(train, held_out, facts | _of_template(facts, config, tokenizer))


def _of_template(
    facts: dict[str, Any], config: TrainingConfig, tokenizer: PreTrainedTokenizerBase
) -> dict[str, Any]:
    found: dict[str, Any] = {"plain_template": is_default(tokenizer)}
    if facts["chats"] and not METHODS[config.method].is_classifier:
        found["turn_end"] = _turn_end(tokenizer)
    return found


def _part(
    config: TrainingConfig, tokenizer: PreTrainedTokenizerBase, cache: Path
) -> PreparedSource:
    source = open_training(config.dataset)
    train: Dataset | Streamed
    if config.dataset.streaming:
        if config.method != "cpt":
            ensure_chat_template(tokenizer)
        train = Streamed(source, config, tokenizer, _rows_taken(config))
        tally = train.tally
    else:
        train, tally = _tokenised(source, config, tokenizer, cache)
    held_out, of_eval = None, None
    if config.dataset.has_evaluation:
        source = open_evaluation(config.dataset)
        held_out, of_eval = _tokenised(source, config, tokenizer, cache, weighs=False)
    elif config.dataset.eval_fraction and isinstance(train, Dataset):
        train, held_out = _split(train, config.dataset.eval_fraction, config.seed)
    return PreparedSource(train, held_out, tally, of_eval)


def _rows_taken(config: TrainingConfig) -> int:
    """Return how many rows a training takes from a stream, of all processes together."""
    batch = config.per_device_train_batch_size * config.gradient_accumulation_steps
    return config.max_steps * batch * own_rank().world_size


def _mixed(
    parts: list[PreparedSource], config: TrainingConfig
) -> tuple[Dataset | MixedStream, DatasetDict | None, dict[str, Any]]:
    """Return the rows to train on, those to evaluate on by their names, and the facts of all."""
    train, of_each = _mixed_rows(parts, config)
    names = config.dataset.names()
    held_out = {name: part.eval for name, part in zip(names, parts, strict=True) if part.eval}
    facts = _facts(merged([part.tally for part in parts]))
    if apart := [part.evaluation for part in parts if part.evaluation]:
        facts["evaluation"] = _facts(merged(apart))
    facts |= {"train_rows": len(train), "eval_rows": sum(map(len, held_out.values()))}
    facts["sources"] = [
        {"name": name, **part.facts, **own}
        for name, part, own in zip(names, parts, of_each, strict=True)
    ]
    return train, DatasetDict(held_out) or None, facts


def _mixed_rows(
    parts: list[PreparedSource], config: TrainingConfig
) -> tuple[Dataset | MixedStream, list[dict[str, Any]]]:
    """Return the rows of an epoch, or of a whole stream, and which part of them is whose."""
    streams = [part.train for part in parts if isinstance(part.train, Streamed)]
    if streams:
        shares = [source.share or 0.0 for source in config.dataset.sources]
        mixed = MixedStream(streams, shares, _rows_taken(config), config.seed)
        return mixed, [{"share": s, "train_rows": round(s * len(mixed))} for s in shares]
    rows = [part.train for part in parts if isinstance(part.train, Dataset)]
    sizes = [len(each) for each in rows]
    counts = rows_of_epoch(sizes, config.dataset.sources)
    train = _joined(rows).select(mixed_order(sizes, counts, config.seed))
    return train, [{"epoch_rows": count, "share": count / len(train)} for count in counts]


def _joined(rows: list[Dataset]) -> Dataset:
    """Return the rows of several data sets one after another.

    Raises:
        DataError: they have columns of one name and of different kinds, as only prompts may.
    """
    try:
        return concatenate_datasets(rows)
    except (ValueError, pa.ArrowException) as error:
        raise DataError(
            f"dataset: the data sets do not go together: {error}.",
            "Give a column the same kind of value in all of them, or rename it.",
        ) from error


def _turn_end(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Return the token at which a model that learned from chats stops; None: there is none."""
    stop = turn_end(tokenizer).stop
    return None if stop is None else str(tokenizer.convert_ids_to_tokens(stop))


def _facts(tally: Tally) -> dict[str, Any]:
    return {name: value for name, value in asdict(tally).items() if name != "file_bytes"}


def _check_tokenizer(tokenizer: PreTrainedTokenizerBase, config: TrainingConfig) -> None:
    name = tokenizer.name_or_path or "the model"
    if not tokenizer.is_fast:
        raise ConfigError(
            f"The tokenizer of {name} is not a fast one, which is needed to trace tokens to the text.",
            "Use a model that ships tokenizer.json.",
        )
    # A class has no end; encoders have no such token.
    if tokenizer.eos_token_id is None and not METHODS[config.method].has_classes:
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
    source: Source,
    config: TrainingConfig,
    tokenizer: PreTrainedTokenizerBase,
    cache: Path,
    *,
    weighs: bool = True,
) -> tuple[Dataset, Tally]:
    if config.method != "cpt":
        ensure_chat_template(tokenizer)
    # Of the content: an edited file of the same name and size must not find the old tokens.
    sha256 = source.sha256()
    key = _key(sha256, config, tokenizer, weighs=weighs)
    arrow, facts = cache / f"{key}.arrow", cache / f"{key}.json"
    tally = _earlier(arrow, facts)
    if tally is None:
        tally = Tally(sha256=sha256)
        _write(arrow, source, config, RowEncoder(config, tokenizer, weighs=weighs), tally)
        # Last: an Arrow file without it is torn, and is written again.
        replace_json(facts, asdict(tally))
    if not tally.kept:
        raise nothing_left(source.name, tally.rows, config.max_length, tally.why)
    return Dataset.from_file(str(arrow)), tally


def _earlier(arrow: Path, facts: Path) -> Tally | None:
    """Return the tally of an earlier run if its file is whole; the tally is written last."""
    known = read_json(facts)
    if known is None or not arrow.is_file() or arrow.stat().st_size != known.get("file_bytes"):
        return None
    log.info("Found the tokens of an earlier run: %s", arrow)
    return Tally(**known)


def _key(
    sha256: str, config: TrainingConfig, tokenizer: PreTrainedTokenizerBase, *, weighs: bool
) -> str:
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
        "weighs": weighs or not METHODS[config.method].learns_from_tokens,
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
    encoder: RowEncoder,
    tally: Tally,
) -> None:
    # By process id: two jobs with one cache would otherwise write into the same file.
    temporary = arrow.with_name(f".{arrow.name}.{os.getpid()}.tmp")
    reading = CheckedReading(source, config)
    batches: Iterator[pa.RecordBatch] = (encoder.batch(rows, tally) for rows in in_batches(reading))
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
