"""Rows as the user's own function returns them, before anything else reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from trainer.config import TrainingConfig
from trainer.config.code_references import split_reference
from trainer.contract.errors import DataError
from trainer.contract.files import sha256_of
from trainer.data.parsing import Row
from trainer.data.problems import kind_of_value
from trainer.engine.custom_code import load
from trainer.engine.failures import in_own_code


def formatted(
    rows: Iterator[Row], config: TrainingConfig, left_out: Callable[[], None]
) -> Iterator[Row]:
    """Yield the rows as `formatting` returns them, or as they are where there is none.

    Args:
        rows: as they are read.
        config: the config; `formatting` matters.
        left_out: called for each row for which the function returns None.

    Raises:
        CodeError: the function raises an error, naming the row, the file and the line.
        DataError: it returns anything but None or a dict with text keys.
    """
    if config.formatting is None:
        yield from rows
        return
    function = load(config.formatting, "formatting")
    path, name = split_reference(config.formatting, "formatting")
    for row in rows:
        with in_own_code(path, f"training.formatting, {row.place}"):
            # A copy: the function may change what it gets.
            value: Any = function(dict(row.value))
        if value is None:
            left_out()
            continue
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
            raise DataError(
                f"{row.place}: {name} in {path} returned {kind_of_value(value)}, not a row.",
                "Return a dict from names of columns to values, or None to leave the row out.",
            )
        yield row._replace(value=value)


def formatting_key(config: TrainingConfig) -> str | None:
    """Return what changes with the function: its name and the SHA-256 of its file."""
    if config.formatting is None:
        return None
    path, name = split_reference(config.formatting, "formatting")
    return f"{name} {sha256_of(path)}"
