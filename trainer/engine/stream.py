"""Rows that are made as training comes to them, as a trainer sees them."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

from torch.utils.data import Dataset as TorchDataset

if TYPE_CHECKING:
    from collections.abc import Callable

    from datasets import Dataset

STREAM = "stream.json"
"""In a checkpoint: `Stream.state`."""


class Stream(TorchDataset[dict[str, Any]]):
    """A list of rows that is read in order; see `trainer.data.streaming`."""

    head: Dataset
    """Some of the first rows, before they are packed."""
    piece: int
    """Rows that can be learned from within which they are shuffled; the last piece of a pass has fewer."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def with_format(self, name: str | None) -> Stream:
        """Let rows have their columns as arrays; see `Dataset.with_format`."""

    @abstractmethod
    def packed_by(self, pack: Callable[[Dataset], Dataset]) -> None:
        """Pack rows from now on; before the first is trained on."""

    @property
    def column_names(self) -> list[str]:
        """The columns of a row."""
        return list(self.head.column_names)

    @property
    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """What became of the rows that were read so far."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Return what a resumed training need not find out again."""

    @abstractmethod
    def restore(self, state: dict[str, Any]) -> None:
        """Know what `state` returned."""
