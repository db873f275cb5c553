"""Find what `dataset.path` means (a file, a folder, a dataset on the Hub) and stream its rows."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from trainer.config.dataset import DatasetConfig
from trainer.contract.errors import DataError, DependencyError
from trainer.contract.files import sha256_of
from trainer.data.parsing import READERS, UNPACKED, Row, kind_of, read_file, without_nulls
from trainer.data.problems import listed
from trainer.data.splits import HELD_OUT, by_split, split_of, usual

SUPPORTED = ", ".join(sorted(READERS))
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
# A name that ends like this is meant as a file, even if there is none: the message should say so
# instead of asking the Hub.
FILE_SUFFIXES = {*READERS, *UNPACKED, ".arrow", ".db", ".md", ".txt", ".xls", ".xlsx", ".zip"}
DEFAULT = ("train",)
DESCRIPTIONS = {"", ".md", ".rst"}
"""Suffixes of files beside a dataset that nobody takes for its rows."""


class Source(Protocol):
    """Where rows come from; the rows can be read more than once."""

    @property
    def name(self) -> str:
        """As the job file gives it."""

    @property
    def files(self) -> tuple[str, ...]:
        """The files read, relative to a folder; a dataset on the Hub counts as one."""

    @property
    def unread(self) -> tuple[str, ...]:
        """Files that lie beside these and are not read."""

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
    unread: tuple[str, ...] = ()

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
    unread: tuple[str, ...] = ()

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


def open_source(
    path: str, subset: str | None = None, splits: Sequence[str] = DEFAULT, field: str = "path"
) -> Source:
    """Return what `path` names; nothing of a file is read yet.

    Args:
        path: a file, a folder, or a dataset on the Hub (`name` or `organisation/name`).
        subset: the configuration of a dataset on the Hub.
        splits: of a dataset on the Hub, or of a folder whose files are named after splits: the first
            of these that there is.
        field: of the dataset's settings, which names the path.

    Raises:
        DataError: it names nothing that can be read.
        DependencyError: it names a dataset on the Hub and `datasets` is not installed.
    """
    try:
        local = Path(path).expanduser()
    except RuntimeError as error:
        raise DataError(f"dataset.{field} = {path!r}: {error}.", "Write the whole path.") from error
    if local.is_dir():
        return _of_folder(path, local, splits, field)
    if local.exists():
        source = FileSource(path, {local.name: _supported(local)})
        _check_split(source, splits, field)
        return source
    if names_hub_dataset(path):
        split, dataset = _from_hub(path, subset, splits, field)
        return HubSource(path, split, dataset)
    raise DataError(
        f"dataset.{field} = {path!r}: there is no such file or folder.",
        remedy_for_missing(local),
    )


def files_of(path: Path, field: str) -> tuple[str, ...]:
    """Return the names of all files of a file or folder that can be read, of whatever split.

    Raises:
        DataError: there is none.
    """
    if not path.is_dir():
        return (_supported(path).name,)
    return tuple(_files_in(path, field.removeprefix("dataset."))[0])


def open_training(dataset: DatasetConfig) -> Source:
    """Return the rows to train on, opened; see `open_source`."""
    return open_source(dataset.path, dataset.subset, (dataset.split,))


def open_evaluation(dataset: DatasetConfig) -> Source:
    """Return the rows to evaluate on where they are apart, opened; see `open_source`.

    Raises:
        DataError: they are those to train on.
    """
    path = dataset.eval_path or dataset.path
    splits = (dataset.eval_split,) if dataset.eval_split else HELD_OUT
    source = open_source(path, dataset.subset, splits, "eval_path")
    # Who names the same file twice means it.
    if dataset.eval_split and source.files == open_training(dataset).files and path == dataset.path:
        raise DataError(
            f"dataset.eval_path = {path!r} holds the rows to train on.",
            "Name other rows, or another split in dataset.eval_split; or use eval_fraction.",
        )
    return source


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


def _of_folder(path: str, folder: Path, splits: Sequence[str], field: str) -> FileSource:
    files, others = _files_in(folder, field)
    found = by_split(files)
    # Where no file is named after a split, all of them are meant, whatever for.
    is_named = any(map(split_of, files))
    wanted = [usual(split) for split in splits] if is_named else list(found)
    split = next((split for split in wanted if split in found), None)
    if not is_named:
        _check_split(FileSource(path, files), splits, field)
    if split is None:
        raise DataError(
            f"dataset.{field} = {path!r}: no file is of the split {' or '.join(splits)}; there are "
            f"{', '.join(found)}.",
            f"Name one of them in dataset.{_name_of_split(field)}.",
        )
    unread = [name for other, names in found.items() if other != split for name in names]
    paths = {name: files[name] for name in found[split]}
    return FileSource(path, paths, (*unread, *others))


def _check_split(source: FileSource, splits: Sequence[str], field: str) -> None:
    """Refuse a split that is asked for where there are none; the usual ones are only looked for."""
    if splits not in (DEFAULT, HELD_OUT):
        raise DataError(
            f"dataset.{_name_of_split(field)} = {splits[0]!r}: {source.name} has no splits.",
            "Leave it out, or name the files after splits, such as train.jsonl and test.jsonl.",
        )


def _name_of_split(field: str) -> str:
    return "split" if field == "path" else "eval_split"


def _files_in(folder: Path, field: str) -> tuple[dict[str, Path], list[str]]:
    """Return the files of a folder that can be read, and the names of the others."""
    found, others = {}, []
    # Sorted, since the order of a folder differs from file system to file system, and the same rows
    # in another order are another training.
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        # A dangling link counts as a file, so that reading it says what is wrong.
        if any(part.startswith(".") for part in name.parts) or not (
            path.is_file() or path.is_symlink()
        ):
            continue
        if kind_of(path) in READERS and not path.is_dir():
            found[name.as_posix()] = path
        elif path.suffix.lower() not in DESCRIPTIONS:
            others.append(name.as_posix())
    if not found:
        what = f"none of its files can be read ({listed(others)})" if others else "no file is there"
        raise DataError(f"dataset.{field} = {str(folder)!r}: {what}.", f"Add files: {SUPPORTED}.")
    return found, others


def _from_hub(path: str, subset: str | None, splits: Sequence[str], field: str) -> tuple[str, Any]:
    """Return the first of the splits that there is, by its name, and its rows."""
    names = [name for split in splits for name in dict.fromkeys((split, usual(split)))]
    for name in names[:-1]:
        try:
            return name, _load_from_hub(path, subset, name, field)
        except DataError as error:
            if "Unknown split" not in error.message:
                raise
    return names[-1], _load_from_hub(path, subset, names[-1], field)


def _load_from_hub(path: str, subset: str | None, split: str, field: str) -> Any:
    try:
        # Imported here: it costs a second, and an orchestrator may not have it.
        from datasets import load_dataset
    except ImportError as error:
        raise DependencyError(
            f"dataset.{field} = {path!r} is not a file here, and a dataset on the Hub needs "
            "'datasets'.",
            "Run: pip install 'training-orchestrator[trainer]'. Or correct the path.",
        ) from error
    try:
        return load_dataset(path, subset, split=split)
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise DataError(
            f"dataset.{field} = {path!r} is neither a file here nor a dataset from the Hub: "
            f"{reason}.",
            f"Correct the path, dataset.subset or dataset.{_name_of_split(field)}, connect to the network, "
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
