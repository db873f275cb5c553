"""Find what `dataset.path` means (a file, a folder, a dataset on the Hub) and stream its rows."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from trainer.contract.errors import DataError, DependencyError
from trainer.contract.files import sha256_of
from trainer.data.parsing import READERS, Row, kind_of, read_file, without_nulls

SUPPORTED = ", ".join(sorted(READERS))
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
# A name that ends like this is meant as a file, even if there is none: the message should say so
# instead of asking the Hub.
FILE_SUFFIXES = {*READERS, ".arrow", ".db", ".gz", ".md", ".tsv", ".txt", ".xls", ".xlsx", ".zip"}


class Source(Protocol):
    """Where rows come from; the rows can be read more than once."""

    @property
    def name(self) -> str:
        """As the job file gives it."""

    @property
    def files(self) -> tuple[str, ...]:
        """The files read, relative to a folder; a dataset on the Hub counts as one."""

    @property
    def bytes(self) -> int:
        """Size on disk."""

    def rows(self) -> Iterator[Row]:
        """Yield all rows, always in the same order; at least one."""

    def sha256(self) -> str:
        """Return a hash that changes with any byte of the data, and with nothing else."""


@dataclass(frozen=True)
class FileSource:
    """One file, or all files of a folder and its sub-folders in the order of their names."""

    name: str
    paths: dict[str, Path]

    @property
    def files(self) -> tuple[str, ...]:
        """The names of the files, relative to the folder."""
        return tuple(self.paths)

    @property
    def bytes(self) -> int:
        """Size of all files together."""
        return sum(_size(path) for path in self.paths.values())

    def rows(self) -> Iterator[Row]:
        """Yield the rows of all files.

        Raises:
            DataError: a file cannot be read, or there is not a single row.
        """
        empty = True
        for name, path in self.paths.items():
            for row in read_file(path, name):
                empty = False
                yield row
        if empty:
            raise DataError(f"{self.name} holds no rows.", "Add examples to learn from.")

    def sha256(self) -> str:
        """Return the hash of all names and contents."""
        total = hashlib.sha256()
        for name, path in self.paths.items():
            try:
                # Names too: the order of the files is that of their names, and decides the order of
                # rows.
                total.update(f"{sha256_of(path)}  {name}\n".encode())
            except OSError as error:
                raise _unreadable(path, error) from error
        return total.hexdigest()


@dataclass(frozen=True)
class HubSource:
    """One split of a dataset that the library `datasets` has fetched from the Hub."""

    name: str
    split: str
    dataset: Any

    @property
    def files(self) -> tuple[str, ...]:
        """The dataset and its split, as one name."""
        return (f"{self.name}/{self.split}",)

    @property
    def bytes(self) -> int:
        """Size in memory-mapped Arrow files."""
        return int(self.dataset.dataset_size or 0)

    def rows(self) -> Iterator[Row]:
        """Yield the rows of the split.

        Raises:
            DataError: the split is empty.
        """
        if not len(self.dataset):
            raise DataError(f"{self.files[0]} on the Hub holds no rows.", "Name another split.")
        for number, value in enumerate(self.dataset, 1):
            yield Row(self.files[0], number, "row", without_nulls(value))

    def sha256(self) -> str:
        """Return a hash of the dataset's own fingerprint, which names the exact revision."""
        # The library has no public name for it.
        fingerprint = self.dataset._fingerprint
        return hashlib.sha256(f"{self.files[0]} {fingerprint}\n".encode()).hexdigest()


def open_source(path: str, subset: str | None = None, split: str = "train") -> Source:
    """Return what `path` names; nothing of a file is read yet.

    Args:
        path: a file, a folder, or a dataset on the Hub (`name` or `organisation/name`).
        subset: the configuration of a dataset on the Hub.
        split: the split of a dataset on the Hub.

    Raises:
        DataError: it names nothing that can be read.
        DependencyError: it names a dataset on the Hub and `datasets` is not installed.
    """
    try:
        local = Path(path).expanduser()
    except RuntimeError as error:
        raise DataError(f"dataset.path = {path!r}: {error}.", "Write the whole path.") from error
    if local.is_dir():
        return FileSource(path, _files_in(local))
    if local.exists():
        return FileSource(path, {local.name: _supported(local)})
    if names_hub_dataset(path):
        return HubSource(path, split, _load_from_hub(path, subset, split))
    raise DataError(
        f"dataset.path = {path!r}: there is no such file or folder.",
        remedy_for_missing(local),
    )


def remedy_for_missing(path: Path) -> str:
    """Return the remedy where a job names a file or folder that is not there."""
    # Relative paths of a job file or a form are absolute by now, and stand in the message.
    return "Correct the path." if path.is_absolute() else f"Relative paths start at {Path.cwd()}."


def names_hub_dataset(path: str) -> bool:
    """Return whether `path`, which exists nowhere here, can only mean a dataset on the Hub."""
    return HUB_NAME.fullmatch(path) is not None and Path(path).suffix.lower() not in FILE_SUFFIXES


def _supported(path: Path) -> Path:
    if kind_of(path) not in READERS:
        raise DataError(
            f"{path} is not of a kind that can be read; supported are: {SUPPORTED}.",
            "Convert the file, or give it the suffix that says what it is.",
        )
    return path


def _files_in(folder: Path) -> dict[str, Path]:
    found = {}
    seen = 0
    # Sorted, since the order of a folder differs from file system to file system, and the same rows
    # in another order are another training.
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        # A dangling link counts as a file, so that reading it says what is wrong.
        if any(part.startswith(".") for part in name.parts) or not (
            path.is_file() or path.is_symlink()
        ):
            continue
        seen += 1
        if kind_of(path) in READERS and not path.is_dir():
            found[name.as_posix()] = path
    if not found:
        what = f"none of its {seen} files can be read" if seen else "the folder is empty"
        raise DataError(f"dataset.path = {str(folder)!r}: {what}.", f"Add files: {SUPPORTED}.")
    return found


def _load_from_hub(path: str, subset: str | None, split: str) -> Any:
    try:
        # Imported here: it costs a second, and an orchestrator may not have it.
        from datasets import load_dataset
    except ImportError as error:
        raise DependencyError(
            f"dataset.path = {path!r} is not a file here, and a dataset on the Hub needs 'datasets'.",
            "Run: pip install 'training-orchestrator[trainer]'. Or correct the path.",
        ) from error
    try:
        return load_dataset(path, subset, split=split)
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise DataError(
            f"dataset.path = {path!r} is neither a file here nor a dataset from the Hub: {reason}.",
            "Correct the path, dataset.subset or dataset.split, connect to the network, "
            "or set HF_TOKEN for a private dataset.",
        ) from error


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> DataError:
    return DataError(
        f"{path} cannot be read: {error.strerror or error}.", "Check that it is there and yours."
    )
