"""Scalars out of TensorBoard's event files, by the package `tensorboard`, which reads them without TensorFlow."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gateway.metrics.codec import merged
from gateway.metrics.series import TIME, Curves, curves_of, is_name
from trainer.contract.errors import ConfigError
from trainer.contract.metrics import LARGEST, Record

PATTERN = "*tfevents*"
NAMES = {"train/loss": "train_loss", "eval/loss": "eval_loss", "loss": "train_loss"}
"""Their tags by our names; of others `train/` is left out, and `eval/` becomes `eval_`."""


def runs_in(folder: Path) -> dict[str, Path]:
    """Return the folders that hold event files, by their names below `folder`, as TensorBoard has them.

    Raises:
        ConfigError: there are none.
    """
    found = {path.parent for path in folder.rglob(PATTERN) if path.is_file()}
    if not found:
        raise ConfigError(
            f"{folder}: there is no event file of TensorBoard in it.",
            "Name the folder that its --logdir would be: the files' names contain 'tfevents'.",
        )
    return {_name(folder, each): each for each in sorted(found)}


def curves_in(folder: Path) -> Curves:
    """Return the scalars of the event files of a folder, not of those below it.

    Raises:
        ConfigError: the package is not installed.
    """
    curves: Curves = {}
    # In the order in which they were begun: a resumed training repeats steps in a later file.
    for path in sorted(folder.glob(PATTERN), key=lambda path: path.name):
        for name, curve in curves_of(_records(path)).items():
            curves[name] = merged([curves[name], curve] if name in curves else [curve])
    return curves


def our_name(tag: str) -> str:
    """Return our name of a tag."""
    if tag in NAMES:
        return NAMES[tag]
    return f"eval_{tag[5:]}" if tag.startswith("eval/") else tag.removeprefix("train/")


def _records(path: Path) -> Iterator[Record]:
    try:
        from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
        from tensorboard.util import tensor_util
    except ImportError:
        raise ConfigError(
            "Event files are read by the package 'tensorboard', which is not installed.",
            "pip install 'training-orchestrator[tensorboard]'",
        ) from None
    # A file that ends in the midst of an event, as that of a killed training does, ends there.
    for event in EventFileLoader(str(path)).Load():
        if not 0 <= event.step <= LARGEST:
            continue
        record: dict[str, Any] = {"step": event.step}
        for value in event.summary.value:
            number = _number(tensor_util.make_ndarray(value.tensor))
            if number is not None and is_name(name := our_name(value.tag)):
                record[name] = number
        if len(record) > 1:
            yield record | ({TIME: event.wall_time} if math.isfinite(event.wall_time) else {})


def _number(array: Any) -> float | None:
    """Return the one number of an array; None: it is a picture, a text, a histogram."""
    return float(array.item()) if array.size == 1 and array.dtype.kind in "fiub" else None


def _name(folder: Path, found: Path) -> str:
    return folder.resolve().name if found == folder else str(found.relative_to(folder))
