"""Several streams as one, in the proportion of their shares, whichever row is asked for first."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict
from itertools import pairwise
from typing import Any

from datasets import Dataset, concatenate_datasets

from trainer.data.streaming import Streamed
from trainer.data.tally import merged
from trainer.engine.stream import Stream

BLOCK = 1024
"""Rows within which the shares hold to a row, and the data sets lie in an order that the seed decides."""


class MixedStream(Stream):
    """Rows of several streams; each is read in its own order, over and over."""

    def __init__(
        self, streams: Sequence[Streamed], shares: Sequence[float], length: int, seed: int
    ) -> None:
        """Take the streams.

        Args:
            streams: one of each data set.
            shares: which part of the rows comes from each; together 1, to a rounding.
            length: rows that the training takes, of all processes together.
            seed: the job's.
        """
        self._streams, self._length, self._seed = streams, length, seed
        self._shares = [share / math.fsum(shares) for share in shares]
        self._taken = [[0] * len(streams)]
        """How many rows of each come before a block."""
        self._block: tuple[int, list[tuple[int, int]]] = (-1, [])
        self.piece = streams[0].piece
        self.head: Dataset = concatenate_datasets([stream.head for stream in streams])

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int | slice) -> Any:
        """Return a row; of a slice, columns of first rows as they were tokenised."""
        if isinstance(index, slice):
            return self.head[index]
        number, place = divmod(index, BLOCK)
        if self._block[0] != number:
            self._block = (number, self._planned(number))
        source, row = self._block[1][place]
        return self._streams[source][row]

    def with_format(self, name: str | None) -> MixedStream:
        """Let rows have their columns as arrays; see `Dataset.with_format`."""
        for stream in self._streams:
            stream.with_format(name)
        return self

    def packed_by(self, pack: Callable[[Dataset], Dataset]) -> None:
        """Pack the rows of each data set by themselves; the shares are of what is packed."""
        for stream in self._streams:
            stream.packed_by(pack)

    @property
    def facts(self) -> dict[str, Any]:
        """What became of all rows that were read so far, of all data sets together."""
        tally = asdict(merged([stream.tally for stream in self._streams]))
        return {name: value for name, value in tally.items() if name != "file_bytes"}

    def state(self) -> dict[str, Any]:
        """Return what is known of each stream."""
        return {"streams": [stream.state() for stream in self._streams]}

    def restore(self, state: dict[str, Any]) -> None:
        """Know what `state` returned."""
        for stream, known in zip(self._streams, state["streams"], strict=True):
            stream.restore(known)

    def _planned(self, number: int) -> list[tuple[int, int]]:
        """Return the data set and the row in it for each place of a block."""
        while len(self._taken) <= number + 1:
            self._taken.append(_taken_after(self._taken[-1], self._shares))
        before, after = list(pairwise(self._taken))[number]
        counts = [to - since for since, to in zip(before, after, strict=True)]
        sources = [source for source, count in enumerate(counts) for _ in range(count)]
        random.Random(f"{self._seed} {number}").shuffle(sources)  # noqa: S311 - no secret
        following = list(before)
        plan = []
        for source in sources:
            plan.append((source, following[source]))
            following[source] += 1
        return plan


def _taken_after(before: Sequence[int], shares: Sequence[float]) -> list[int]:
    """Return how many rows of each are taken after one more block, as near to the shares as can be."""
    total = sum(before) + BLOCK
    wanted = [max(0.0, share * total - taken) for share, taken in zip(shares, before, strict=True)]
    counts = [math.floor(want) for want in wanted]
    # The rest goes to those that miss most of a row.
    missing = sorted(range(len(counts)), key=lambda i: (counts[i] - wanted[i], i))
    for i in missing[: BLOCK - sum(counts)]:
        counts[i] += 1
    return [taken + count for taken, count in zip(before, counts, strict=True)]
