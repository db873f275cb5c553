"""Points of a curve as bytes: steps as differences, values as float32, both shuffled, in one zstd frame.

Shuffled means that the first bytes of all numbers come first, then the second ones, and so on:
neighbours of a curve differ in their last bytes alone, so the others compress to almost nothing.
"""

from __future__ import annotations

import struct
from typing import TypeAlias

import numpy as np
import zstandard
from numpy.typing import NDArray

Steps: TypeAlias = NDArray[np.int64]
"""Of shape (points), rising."""
Values: TypeAlias = NDArray[np.float64]
"""Of shape (columns, points): one column of the points themselves, or those in `BIN`."""

BIN = ("min", "max", "mean")
"""The columns of points that stand for several."""
LEVEL = 3  # of zstd; 9 makes noise 1 % smaller and takes four times as long
EXACT = 1 << 24  # whole numbers up to here are exact as float32
_HEADER = struct.Struct("<BBHI")  # bytes of a value, of a difference, columns, points
_FIRST = struct.Struct("<q")
_DIFFERENCES = (np.dtype("<u1"), np.dtype("<u2"), np.dtype("<u4"), np.dtype("<u8"))


def pack(steps: Steps, values: Values) -> bytes:
    """Return points as bytes.

    Values are kept as float32 where it holds all of them to its 7 digits and whole numbers exactly;
    else all are kept as float64: times, large counts, a loss of 1e40.

    Args:
        steps: (points), rising, at least one.
        values: (columns, points).
    """
    differences = np.diff(steps)
    most = int(differences.max(initial=0))
    kind = next(each for each in _DIFFERENCES if most <= np.iinfo(each).max)
    real = np.dtype("<f4") if _fits(values) else np.dtype("<f8")
    with np.errstate(over="ignore"):  # infinite stays infinite
        columns = [_shuffled(column.astype(real)) for column in values]
    body = b"".join([_FIRST.pack(int(steps[0])), _shuffled(differences.astype(kind)), *columns])
    header = _HEADER.pack(real.itemsize, kind.itemsize, len(values), len(steps))
    return header + zstandard.ZstdCompressor(level=LEVEL).compress(body)


def unpack(blob: bytes) -> tuple[Steps, Values]:
    """Return the points of `pack`.

    Raises:
        ValueError: these bytes are not from there.
    """
    try:
        real, kind, columns, points = _HEADER.unpack_from(blob)
        body = zstandard.ZstdDecompressor().decompress(blob[_HEADER.size :])
        (first,) = _FIRST.unpack_from(body)
        end = _FIRST.size + kind * (points - 1)
        differences = _restored(body[_FIRST.size : end], f"<u{kind}")
        steps = np.full(points, first, np.int64)
        steps[1:] += np.cumsum(differences.astype(np.int64))
        width = real * points
        parts = [body[end + n * width : end + (n + 1) * width] for n in range(columns)]
        return steps, np.array([_restored(part, f"<f{real}") for part in parts], np.float64)
    except (struct.error, zstandard.ZstdError, TypeError) as error:
        raise ValueError("a chunk of metrics is damaged") from error


def binned(steps: Steps, values: Values, size: int) -> tuple[Steps, Values]:
    """Return one point for every `size` points: its first step, and least, largest and mean value.

    NaN counts only where there is nothing else.

    Args:
        steps: (points).
        values: (1, points).
        size: points that one stands for; the last one may stand for fewer.
    """
    starts = np.arange(0, len(steps), size)
    numbers = values[0]
    valid = ~np.isnan(numbers)
    counts = np.add.reduceat(valid.astype(np.float64), starts)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        least = np.fmin.reduceat(numbers, starts)
        largest = np.fmax.reduceat(numbers, starts)
        mean = np.add.reduceat(np.where(valid, numbers, 0.0), starts) / counts
    return steps[starts], np.stack([least, largest, mean])


def merged(parts: list[tuple[Steps, Values]]) -> tuple[Steps, Values]:
    """Return points of several parts by step; of a step in several, that of the last part."""
    steps = np.concatenate([each[0] for each in parts])
    values = np.concatenate([each[1] for each in parts], axis=1)
    if len(steps) < 2 or bool((np.diff(steps) > 0).all()):
        return steps, values
    # The first of the reversed is the last that was written.
    rising, last = np.unique(steps[::-1], return_index=True)
    return rising, values[:, ::-1][:, last]


def _fits(values: Values) -> bool:
    """Whether float32 holds all of these."""
    finite = values[np.isfinite(values)]
    size = np.abs(finite)
    with np.errstate(over="ignore", under="ignore"):
        short = finite.astype(np.float32).astype(np.float64)
    # Numbers next to zero lose digits before they become zero, as large ones lose their last whole.
    is_near = np.abs(short - finite) <= size * 2.0**-24
    return bool((is_near & ((size <= EXACT) | (short == finite))).all())


def _shuffled(numbers: NDArray[np.generic]) -> bytes:
    return numbers.view(np.uint8).reshape(-1, numbers.itemsize).T.tobytes()


def _restored(body: bytes, kind: str) -> NDArray[np.generic]:
    size = np.dtype(kind).itemsize
    return np.frombuffer(
        np.frombuffer(body, np.uint8).reshape(size, -1).T.tobytes(), np.dtype(kind)
    )
