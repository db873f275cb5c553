"""Find what `dataset.path` means (a file, a folder, a dataset on the Hub) and stream its rows."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from trainer.config.dataset import DatasetConfig
from trainer.contract.errors import DataError
from trainer.contract.files import sha256_of
from trainer.data.fetching import fetched, is_address
from trainer.data.hub import fetched_from_hub, hub_name, open_on_hub
from trainer.data.parsing import READERS, Row, kind_of, read_file
from trainer.data.problems import listed
from trainer.data.saved import DESCRIPTIONS as SAVED_DESCRIPTIONS
from trainer.data.saved import SPLITS, class_names, is_saved, refuse_index, saved_files
from trainer.data.splits import HELD_OUT, by_split, split_of, usual

SUPPORTED = ", ".join(sorted(READERS))
DEFAULT = ("train",)
DESCRIPTIONS = {"", ".md", ".rst"}
"""Suffixes of files beside a dataset that nobody takes for its rows."""
PATTERN = set("*?{")
ONLY_ALONE = {".txt", ".arrow"}
"""Suffixes of what is read in a folder where nothing else can be: beside rows lie notes and caches."""


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

    @property
    def classes(self) -> dict[str, list[str]]:
        """The names of classes by the column that holds their numbers.

        Raises:
            DataError: two files number them differently.
        """
        found: dict[str, list[str]] = {}
        for name, path in self.paths.items():
            for column, names in class_names(path).items():
                if found.setdefault(column, names) != names:
                    raise DataError(
                        f"{name} numbers the classes of {column!r} as {listed(names)}, and files before "
                        f"it as {listed(found[column])}.",
                        "Give them as a list of data sets, or write the classes by their names.",
                    )
        return found

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


def open_source(
    path: str,
    subset: str | None = None,
    splits: Sequence[str] = DEFAULT,
    field: str = "path",
    sha256: str | None = None,
    *,
    streaming: bool = False,
) -> Source:
    """Return what `path` names; nothing of a file is read yet.

    Args:
        path: a file, a folder, an address of the web, or a dataset on the Hub (`name` or
            `organisation/name`, with `:config`; or hf://datasets/…).
        subset: the configuration of a dataset on the Hub.
        splits: of a dataset on the Hub, or of a folder whose files are named after splits: the first
            of these that there is.
        field: of the dataset's settings, which names the path.
        sha256: which a file has; an address needs it.
        streaming: whether rows of the Hub are fetched only as they are read.

    Raises:
        DataError: it names nothing that can be read, or a file with another SHA-256.
        DependencyError: it names a dataset on the Hub and `datasets` is not installed.
    """
    try:
        local = Path(path).expanduser()
    except RuntimeError as error:
        raise DataError(f"dataset.{field} = {path!r}: {error}.", "Write the whole path.") from error
    if is_address(path):
        local = fetched(path, sha256 or "", field)
    elif not local.exists() and (name := hub_name(path)):
        if not name.inside:
            _refuse_sum(path, sha256, field)
            return open_on_hub(path, name, subset, splits, field, streaming=streaming)
        local = fetched_from_hub(path, name, field)
    if local.is_dir():
        _refuse_sum(path, sha256, field)
        return _of_folder(path, local, splits, field)
    if local.exists():
        source = FileSource(path, {local.name: _supported(local)})
        _check_split(source, splits, field)
        if not is_address(path):
            _check_sum(local, sha256, field)
        return source
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
    field = field.removeprefix("dataset.")
    refuse_index(path, field)
    if is_saved(path):
        # Whole: what describes it says which files are its rows.
        return tuple(p.relative_to(path).as_posix() for p in sorted(path.rglob("*")) if p.is_file())
    return tuple(_files_in(path, field)[0])


def open_training(dataset: DatasetConfig) -> Source:
    """Return the rows to train on, opened; see `open_source`.

    Raises:
        DataError: nothing that is read has subsets, and one is given.
    """
    source = open_source(
        dataset.path,
        dataset.subset,
        (dataset.split,),
        sha256=dataset.sha256,
        streaming=dataset.streaming,
    )
    places = [place for place in (dataset.path, dataset.eval_path) if place]
    if dataset.subset and not any(map(_has_subsets, places)):
        raise DataError(
            f"dataset.subset = {dataset.subset!r} is of a dataset on the Hub, and {dataset.path!r} is "
            "none.",
            "Leave it out, or name the file or folder that is meant.",
        )
    return source


def open_evaluation(dataset: DatasetConfig) -> Source:
    """Return the rows to evaluate on where they are apart, opened; see `open_source`.

    Raises:
        DataError: they are those to train on.
    """
    path = dataset.eval_path or dataset.path
    splits = (dataset.eval_split,) if dataset.eval_split else HELD_OUT
    sha256 = dataset.eval_sha256 if dataset.eval_path else dataset.sha256
    source = open_source(
        path, dataset.subset, splits, "eval_path", sha256, streaming=dataset.streaming
    )
    # Who names the same file twice means it.
    if dataset.eval_split and source.files == open_training(dataset).files and path == dataset.path:
        raise DataError(
            f"dataset.eval_path = {path!r} holds the rows to train on.",
            "Name other rows, or another split in dataset.eval_split; or use eval_fraction.",
        )
    return source


def remedy_for_missing(path: Path) -> str:
    """Return the remedy where a job names a file or folder that is not there."""
    if PATTERN & set(str(path)):
        return "Patterns are not read: name the folder, or give a list of files."
    # Relative paths of a job file or a form are absolute by now, and stand in the message.
    return "Correct the path." if path.is_absolute() else f"Relative paths start at {Path.cwd()}."


def is_elsewhere(path: str) -> bool:
    """Whether `path`, which exists nowhere here, can only mean something on the Hub or in the web."""
    return is_address(path) or hub_name(path) is not None


def _has_subsets(path: str) -> bool:
    name = None if is_address(path) or Path(path).expanduser().exists() else hub_name(path)
    return name is not None and not name.inside


def _supported(path: Path) -> Path:
    if kind_of(path) not in READERS:
        raise DataError(
            f"{path} is not of a kind that can be read; supported are: {SUPPORTED}.",
            "Convert the file, or give it the suffix that says what it is.",
        )
    return path


def _of_folder(path: str, folder: Path, splits: Sequence[str], field: str) -> FileSource:
    refuse_index(folder, field)
    if is_saved(folder):
        saved, beside = saved_files(folder, splits, field)
        source = FileSource(path, saved, tuple(beside))
        if not (folder / SPLITS).is_file():
            _check_split(source, splits, field)
        return source
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


def _check_sum(file: Path, sha256: str | None, field: str) -> None:
    if sha256 and (found := sha256_of(file)) != sha256:
        raise DataError(
            f"dataset.{field} = {str(file)!r} has the SHA-256 {found}, and not {sha256}.",
            "It is another file than was meant, or has changed: look at it, then correct the checksum.",
        )


def _refuse_sum(path: str, sha256: str | None, field: str) -> None:
    if sha256:
        name = "sha256" if field == "path" else "eval_sha256"
        raise DataError(
            f"dataset.{name} is of one file, and {path!r} is none.",
            "Leave it out: a checkpoint notes what was learned from, and a change is refused.",
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
        if path.name in SAVED_DESCRIPTIONS:
            continue
        if kind_of(path) in READERS and not path.is_dir():
            found[name.as_posix()] = path
        elif path.suffix.lower() not in DESCRIPTIONS:
            others.append(name.as_posix())
    alone = {name for name, path in found.items() if kind_of(path) in ONLY_ALONE}
    if alone != found.keys():
        found = {name: path for name, path in found.items() if name not in alone}
        others = sorted([*others, *alone])
    if not found:
        what = f"none of its files can be read ({listed(others)})" if others else "no file is there"
        raise DataError(f"dataset.{field} = {str(folder)!r}: {what}.", f"Add files: {SUPPORTED}.")
    return found, others


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> DataError:
    return DataError(
        f"{path} cannot be read: {error.strerror or error}.", "Check that it is there and yours."
    )
