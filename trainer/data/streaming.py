"""Data sets larger than disk or memory: rows are tokenised piece by piece as training comes to them.

A stream is a list of known length whose rows are made when they are asked for, in the order of the
source, piece after piece. So everything that knows lists works on it as on other data: batches, several
processes, and a resume, which asks for the next index. An IterableDataset would not do: transformers
resumes one by drawing all batches again and throwing them away, and the shuffle buffer of the library
`datasets` is lost with its process. A piece here follows from its rows and the seed alone, and a
checkpoint notes where each piece begins.
"""

from __future__ import annotations

import os
import random
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from datasets import Dataset

from trainer.config import TrainingConfig
from trainer.data.encoding import RowEncoder, in_batches
from trainer.data.formats import Example
from trainer.data.parsing import Row
from trainer.data.reading import Source
from trainer.data.tally import LEFT_OUT, Tally, merged, nothing_left
from trainer.data.validation import CheckedReading
from trainer.data.weights import unweighted
from trainer.engine.stream import Stream

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PIECE = 4096
"""Rows that are tokenised, packed and shuffled together; two pieces are held in memory."""


@dataclass(frozen=True)
class PieceStart:
    """Where in a source a piece begins."""

    index: int = 0
    """Of its first row, among all that are trained on."""
    read: int = 0
    """Rows of the source before it, in this pass over it."""
    rows: int = 0
    """Those of them that formatting has not left out."""
    begun: int = 0
    """`index` where this pass began."""


class Streamed(Stream):
    """The rows to train on: as many as the training takes, over the source as often as it needs."""

    def __init__(
        self,
        source: Source,
        config: TrainingConfig,
        tokenizer: PreTrainedTokenizerBase,
        length: int,
    ) -> None:
        """Read and tokenise the first piece.

        Args:
            source: opened.
            config: the job's settings.
            tokenizer: with its chat template.
            length: rows that the training takes, of all processes together.

        Raises:
            DataError: a row of the first piece cannot be used, or none of them.
        """
        self._source, self._config, self._tokenizer = source, config, tokenizer
        self._length = length
        self.piece = PIECE
        self._sha256 = source.sha256()
        self._format: str | None = None
        self._process = os.getpid()
        self._starts = [PieceStart()]
        self._tallies: list[Tally] = []
        self._pieces: dict[int, Dataset] = {}
        self._reading: tuple[int, CheckedReading, Iterator[tuple[Row, Example]]] | None = None
        self.pack: Callable[[Dataset], Dataset] | None = None
        """What makes rows that are trained on of tokenised ones, within a piece."""
        self._first = self._tokenised(0)
        self.head = unweighted(self._first[0])
        self._piece(0)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int | slice) -> Any:
        """Return a row; of a slice, columns of rows of the first piece as they were tokenised."""
        if isinstance(index, slice):
            return self.head[index]
        number = bisect_right(self._starts, index, key=lambda start: start.index) - 1
        piece = self._piece(number)
        while index - self._starts[number].index >= len(piece):
            number += 1
            piece = self._piece(number)
        return piece[index - self._starts[number].index]

    def with_format(self, name: str | None) -> Streamed:
        """Let rows have their columns as arrays; see `Dataset.with_format`."""
        self._format = name
        self._pieces = {number: rows.with_format(name) for number, rows in self._pieces.items()}
        return self

    def packed_by(self, pack: Callable[[Dataset], Dataset] | None) -> None:
        """Pack the rows of every piece from now on; before the first is trained on."""
        self.pack, self._pieces = pack, {}
        self._starts, self._tallies = self._starts[:1], []

    @property
    def facts(self) -> dict[str, Any]:
        """What became of all rows that were read so far, for the manifest."""
        tally = asdict(self.tally)
        return {name: value for name, value in tally.items() if name != "file_bytes"}

    @property
    def tally(self) -> Tally:
        """What became of all rows that were read so far."""
        # Where only workers read, or pieces are about to be packed: the first, which told what rows are.
        tally = merged(self._tallies or [self._first[1]])
        tally.sha256 = self._sha256
        return tally

    def state(self) -> dict[str, Any]:
        """Return where the pieces begin that are known so far, and what became of their rows."""
        return {
            "starts": [asdict(start) for start in self._starts],
            "tally": asdict(self.tally),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Know what a checkpoint noted, so that the rows before it need not be tokenised again."""
        self._starts = [PieceStart(**start) for start in state["starts"]]
        self._tallies = [Tally(**state["tally"])]

    def __getstate__(self) -> dict[str, Any]:
        # A worker of a data loader opens the source for itself.
        return {**self.__dict__, "_reading": None}

    def _piece(self, number: int) -> Dataset:
        """Return a piece, shuffled; the newest two are kept.

        Raises:
            DataError: a row of it cannot be used, or a whole pass has nothing to learn from.
        """
        if number in self._pieces:
            return self._pieces[number]
        rows, tally, (read, counted), ended = self._tokenised(number) if number else self._first
        # A weight may be met anywhere: a piece without any spares what it costs to carry them.
        rows = rows if tally.weighted else unweighted(rows)
        packed = self.pack(rows) if self.pack and len(rows) else rows  # the last may be empty
        order = list(range(len(packed)))
        random.Random(f"{self._config.seed} {number}").shuffle(order)  # noqa: S311 - no secret
        piece = packed.select(order).with_format(self._format)
        if number + 1 == len(self._starts):
            start = self._starts[number]
            index = start.index + len(piece)
            if ended and index == start.begun:
                raise nothing_left(self._source.name, counted, self._config.max_length, tally.why)
            after = (
                PieceStart(index, begun=index)
                if ended
                else PieceStart(index, read, counted, start.begun)
            )
            self._starts.append(after)
            self._tallies.append(tally)
        self._pieces[number] = piece
        for old in sorted(self._pieces)[:-2]:
            if old != number:
                del self._pieces[old]
        return piece

    def _tokenised(self, number: int) -> tuple[Dataset, Tally, tuple[int, int], bool]:
        """Return the rows of a piece, what became of them, what is read by then, and if all is."""
        reading, rows = self._reading_at(number)
        before = reading.rows, reading.bad_rows, reading.left_out, dict(reading.unread)
        tally, encoder = Tally(), RowEncoder(self._config, self._tokenizer)
        taken: list[pa.RecordBatch] = []
        count = 0
        for batch in in_batches(islice(rows, self.piece)):
            count += len(batch)
            taken.append(encoder.batch(batch, tally))
        taken = taken or [encoder.batch([], tally)]
        self._reading = (number + 1, reading, rows)
        left_out = reading.left_out - before[2]
        tally.rows, tally.format = reading.rows - before[0] + left_out, reading.format
        tally.skip(reading.bad_rows - before[1], reading.problems[before[1] :])
        for _ in range(left_out):
            tally.drop(LEFT_OUT)
        for name, found in reading.unread.items():
            if new := found - before[3].get(name, 0):
                tally.ignore(name, new)
        read = (reading.rows + reading.left_out, reading.rows)
        return Dataset(pa.Table.from_batches(taken)), tally, read, count < self.piece

    def _reading_at(self, number: int) -> tuple[CheckedReading, Iterator[tuple[Row, Example]]]:
        """Return the open reading where a piece begins, or one that was opened there."""
        start = self._starts[number]
        # A worker of a data loader may be a fork, which shares the open file and its place with others.
        is_own = self._process == os.getpid()
        if self._reading and is_own and self._reading[0] == number and start.read:
            return self._reading[1:]
        self._process = os.getpid()
        reading = CheckedReading(
            self._source, self._config, after=(start.read, start.rows), at_once=True
        )
        return reading, iter(reading)
