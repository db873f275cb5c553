"""Our checked rows as other projects read them: JSONL of `messages`, or of `text`."""

from __future__ import annotations

import json
from pathlib import Path

from trainer.config import TrainingConfig
from trainer.contract.errors import DataError
from trainer.data.formats import Chat, Example, PlainText
from trainer.data.reading import Source, open_evaluation, open_training
from trainer.data.validation import CheckedReading
from trainer.presets.preset import Start

SAID = {"role", "content"}


def write_rows(start: Start) -> int:
    """Write the rows of a job unless an earlier start did; return how many there are to train on.

    Raises:
        DataError: a row cannot be used, or other projects have no place for what is in it.
    """
    data = start.config.dataset
    if not start.rows.exists():
        _write(open_training(data), start.config, start.rows, "dataset.path")
    if start.eval_rows and not start.eval_rows.exists():
        _write(open_evaluation(data), start.config, start.eval_rows, "dataset.eval_path")
    with start.rows.open(encoding="utf-8") as stream:
        return sum(1 for _ in stream)


def _write(source: Source, config: TrainingConfig, target: Path, field: str) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    staged = target.with_suffix(".arriving")
    with staged.open("w", encoding="utf-8") as stream:
        for row, example in CheckedReading(source, config):
            record = _record(example, config, f"{field}, {row.place}")
            stream.write(json.dumps(record, ensure_ascii=False) + "\n")
    # A file that exists is complete, so a later start need not write it again.
    staged.rename(target)


def _record(example: Example, config: TrainingConfig, place: str) -> dict[str, object]:
    if getattr(example, "weight", 1) != 1:
        raise DataError(
            f"{place}: has a weight, for which trainer: {config.trainer} has no place.",
            "Remove it, or train with trainer: builtin.",
        )
    if config.method == "cpt":
        if isinstance(example, PlainText):
            return {"text": example.prompt + example.completion}
        raise DataError(f"{place}: is a chat; method cpt reads plain text.")
    if not isinstance(example, Chat):
        raise DataError(
            f"{place}: is plain text without a chat, which trainer: {config.trainer} cannot learn.",
            "Give the rows as messages, or train with trainer: builtin.",
        )
    if example.tools or example.muted:
        what = "tools" if example.tools else "a turn of weight 0"
        raise DataError(
            f"{place}: has {what}, for which trainer: {config.trainer} has no place.",
            "Remove it, or train with trainer: builtin.",
        )
    for message in example.messages:
        # Dropped in silence, a tool call would leave an empty answer to learn from.
        if further := sorted(message.keys() - SAID):
            raise DataError(
                f"{place}: a message has {further[0]!r}, for which trainer: {config.trainer} "
                "has no place.",
                "Remove it, or train with trainer: builtin.",
            )
    return {"messages": example.messages}
