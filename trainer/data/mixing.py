"""Several data sets → the rows of one epoch, in an order that the seed alone decides."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from itertools import accumulate

from trainer.config.dataset import SourceConfig


def rows_of_epoch(sizes: Sequence[int], sources: Sequence[SourceConfig]) -> list[int]:
    """Return how many rows of each data set an epoch has.

    With shares an epoch ends where the first data set has been seen whole, so that no row comes twice
    while others of its set are left; with repeats each set comes as often as it says.

    Args:
        sizes: rows to train on, of each; at least one.
        sources: their settings.
    """
    shares = [source.share for source in sources if source.share is not None]
    if not shares:
        repeats = [1.0 if source.repeats is None else source.repeats for source in sources]
        return [max(1, round(n * often)) for n, often in zip(sizes, repeats, strict=True)]
    # Shares may miss 1 by a rounding.
    whole = min(n / share for n, share in zip(sizes, shares, strict=True))
    return [
        max(1, min(n, math.floor(whole * share + 0.5)))
        for n, share in zip(sizes, shares, strict=True)
    ]


def mixed_order(sizes: Sequence[int], counts: Sequence[int], seed: int) -> list[int]:
    """Return the rows of an epoch, by their places in the data sets one after another.

    It is the same in every process and after a resume.

    Args:
        sizes: rows of each data set.
        counts: how many rows of each there are in an epoch.
        seed: the job's.
    """
    # Not numpy's or the datasets library's: their choice may change with a version, and a resumed run
    # on another machine must find the same rows.
    chance = random.Random(seed)  # noqa: S311 - no secret
    starts = [0, *accumulate(sizes)]
    order = [
        start + row
        for start, size, count in zip(starts, sizes, counts, strict=False)
        for row in _drawn(size, count, chance)
    ]
    chance.shuffle(order)
    return order


def _drawn(size: int, count: int, chance: random.Random) -> Iterator[int]:
    """Yield all rows as often as they fit, and a random part of them for the rest."""
    for _ in range(count // size):
        yield from range(size)
    yield from sorted(chance.sample(range(size), count % size))
