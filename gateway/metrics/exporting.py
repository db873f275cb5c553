"""A job's curves as one table: a row for each step, a column for each metric."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pa_parquet

from gateway.metrics.series import TIME, Curves
from trainer.contract.errors import ConfigError

KINDS = (".parquet", ".csv")


def table_of(curves: Curves) -> pa.Table:
    """Return curves as a table by step: null where a metric has no value, NaN where it is that."""
    parts = [steps for steps, _ in curves.values()] or [np.array([], np.int64)]
    steps = np.unique(np.concatenate(parts))
    columns: dict[str, Any] = {"step": pa.array(steps)}
    # The usual ones first, whatever the alphabet says.
    for name in sorted(curves, key=lambda name: (name != TIME, name != "epoch", name)):
        at, values = curves[name]
        whole, missing = np.full(len(steps), np.nan), np.ones(len(steps), bool)
        rows = np.searchsorted(steps, at)
        whole[rows], missing[rows] = values[0], False
        columns[name] = _times(whole, missing) if name == TIME else pa.array(whole, mask=missing)
    return pa.table(columns)


def write_table(curves: Curves, path: Path) -> int:
    """Write curves to a file, whole or not at all; return how many rows it has.

    Raises:
        ConfigError: neither Parquet nor CSV, or it cannot be written there.
    """
    refuse_kind(path)
    table = table_of(curves)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        if path.suffix == ".csv":
            pa_csv.write_csv(table, part)
        else:
            pa_parquet.write_table(table, part, compression="zstd")
        part.replace(path)
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be written: {error.strerror or error}.", "Name another file with --to."
        ) from None
    finally:
        part.unlink(missing_ok=True)
    return int(table.num_rows)


def refuse_kind(path: Path) -> None:
    """Refuse a file that is neither Parquet nor CSV by its name.

    Raises:
        ConfigError: it is neither.
    """
    if path.suffix not in KINDS:
        raise ConfigError(
            f"--to {path}: a name that ends in {path.suffix or 'nothing'} says no format.",
            f"Let it end in {' or '.join(KINDS)}.",
        )


def _times(seconds: np.ndarray[Any, Any], missing: np.ndarray[Any, Any]) -> pa.Array:
    missing = missing | ~np.isfinite(seconds)
    milliseconds = np.where(missing, 0, np.round(seconds * 1000)).astype(np.int64)
    return pa.array(milliseconds, mask=missing).cast(pa.timestamp("ms", "UTC"))
