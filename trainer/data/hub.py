"""Datasets and files on the Hub, by every name that people give them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from trainer.contract.errors import DataError, DependencyError
from trainer.data.parsing import READERS, UNPACKED, Row, kind_of, without_nulls
from trainer.data.splits import usual

REPOSITORY = r"[A-Za-z0-9][\w.-]*(?:/[A-Za-z0-9][\w.-]*)?"
NAME = re.compile(rf"(?P<repository>{REPOSITORY})(?::(?P<subset>[\w.+-]+))?")
# As in https://huggingface.co/docs/huggingface_hub/guides/hf_file_system
ADDRESS = re.compile(
    rf"hf://datasets/(?P<repository>{REPOSITORY})(?:@(?P<revision>[^/]+))?(?:/(?P<inside>.+))?"
)
SCHEME = "hf://"
AT_ONCE = 500  # rows that are taken out of memory-mapped files
# A name that ends like this is meant as a file, even if there is none: the message should say so
# instead of asking the Hub.
FILE_SUFFIXES = {*READERS, *UNPACKED, ".arrow", ".db", ".md", ".txt", ".xls", ".xlsx", ".zip"}


@dataclass(frozen=True, slots=True)
class HubName:
    """What a name means on the Hub."""

    repository: str
    subset: str | None = None
    revision: str | None = None
    inside: str = ""
    """A file or a folder in the repository; empty: all of it."""


def hub_name(path: str) -> HubName | None:
    """Return what `path` means on the Hub, such as owner/name:config; None: it is not a name there."""
    if path.startswith(SCHEME):
        found = ADDRESS.fullmatch(path.rstrip("/"))
    else:
        found = NAME.fullmatch(path)
        if found and PurePosixPath(found["repository"]).suffix.lower() in FILE_SUFFIXES:
            return None
    return HubName(**{k: v for k, v in found.groupdict().items() if v}) if found else None


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
        # As they are stored: pictures and sounds would be unpacked, which needs further packages, only
        # to be refused.
        stored = self.dataset.with_format("arrow").iter(batch_size=AT_ONCE)
        for number, value in enumerate((row for part in stored for row in part.to_pylist()), 1):
            yield Row(self.files[0], number, "row", without_nulls(value))

    @property
    def classes(self) -> dict[str, list[str]]:
        """The names of classes by the column that holds their numbers."""
        features = (self.dataset.features or {}).items()
        # A datasets.ClassLabel; other features have no names.
        return {
            name: list(f.names) for name, f in features if isinstance(getattr(f, "names", 0), list)
        }

    def sha256(self) -> str:
        """Return a hash of the dataset's own fingerprint, which names the exact revision."""
        # The library has no public name for it.
        fingerprint = self.dataset._fingerprint
        return hashlib.sha256(f"{self.files[0]} {fingerprint}\n".encode()).hexdigest()


@dataclass(frozen=True)
class HubStream:
    """One split of a dataset on the Hub whose rows come over the network as they are read."""

    name: str
    split: str
    dataset: Any
    revision: str
    unread: tuple[str, ...] = ()
    bytes: int = 0

    @property
    def files(self) -> tuple[str, ...]:
        """The dataset and its split, as one name."""
        return (f"{self.name}/{self.split}",)

    def rows(self) -> Iterator[Row]:
        """Yield the rows of the split.

        Raises:
            DataError: there are none, or the rest cannot be read.
        """
        # See `HubSource.rows`.
        stored = getattr(self.dataset, "decode", lambda **_: self.dataset)(enable=False)
        rows, number = iter(stored), 0
        while True:
            try:
                value = next(rows, None)
            except Exception as error:  # the network has errors of many libraries
                raise DataError(
                    f"{self.files[0]} on the Hub cannot be read after row {number:,}: {_reason(error)}.",
                    "Check the network; the job goes on from its last checkpoint when it is run again.",
                ) from error
            if value is None:
                break
            number += 1
            yield Row(self.files[0], number, "row", without_nulls(value))
        if not number:
            raise DataError(f"{self.files[0]} on the Hub holds no rows.", "Name another split.")

    def sha256(self) -> str:
        """Return a hash of the commit that is read, for nothing else is known of the rows before."""
        return hashlib.sha256(f"{self.files[0]} {self.revision}\n".encode()).hexdigest()


def open_on_hub(
    path: str,
    name: HubName,
    subset: str | None,
    splits: Sequence[str],
    field: str,
    *,
    streaming: bool = False,
) -> HubSource | HubStream:
    """Return the first of the splits that there is.

    Args:
        path: as the job gives it.
        name: what it means.
        subset: dataset.subset.
        splits: in order of preference.
        field: of the dataset's settings, which names the path.
        streaming: whether rows are fetched only as they are read.

    Raises:
        DataError: the Hub has no such dataset, subset or split, or cannot be reached.
        DependencyError: `datasets` is not installed.
    """
    if subset and name.subset and subset != name.subset:
        raise DataError(
            f"dataset.{field} = {path!r} names {name.subset!r}, and dataset.subset = {subset!r}.",
            "Keep one of the two.",
        )
    commit = _commit(path, name, field) if streaming else None
    loaded = partial(_loaded, path, replace(name, revision=commit or name.revision), subset, field)

    def opened(split: str) -> HubSource | HubStream:
        if commit is None:
            return HubSource(path, split, loaded(split))
        return HubStream(path, split, loaded(split, streaming=True), commit)

    names = [each for split in splits for each in dict.fromkeys((split, usual(split)))]
    for split in names[:-1]:
        try:
            return opened(split)
        except DataError as error:
            # The second is what a stream says.
            if "Unknown split" not in error.message and "Bad split" not in error.message:
                raise
    return opened(names[-1])


def _commit(path: str, name: HubName, field: str) -> str:
    """Return the commit that is read, so that a resumed job reads the same."""
    from huggingface_hub import HfApi

    try:
        return str(HfApi().dataset_info(name.repository, revision=name.revision).sha)
    except (OSError, ValueError, RuntimeError) as error:
        raise _unknown(path, field, error) from error


def _unknown(path: str, field: str, error: Exception) -> DataError:
    of_split = "split" if field == "path" else "eval_split"
    return DataError(
        f"dataset.{field} = {path!r} is neither a file here nor a dataset from the Hub: "
        f"{_reason(error)}.",
        f"Correct the path, dataset.subset or dataset.{of_split}, connect to the network, "
        "or set HF_TOKEN for a private dataset.",
    )


def _loaded(
    path: str, name: HubName, subset: str | None, field: str, split: str, *, streaming: bool = False
) -> Any:
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
        return load_dataset(
            name.repository,
            name.subset or subset,
            split=split,
            revision=name.revision,
            streaming=streaming,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise _unknown(path, field, error) from error


def fetched_from_hub(path: str, name: HubName, field: str) -> Path:
    """Return a file or a folder inside a repository of the Hub, as it was fetched.

    Raises:
        DataError: there is none, or the Hub cannot be reached.
    """
    from huggingface_hub import hf_hub_download, snapshot_download

    try:
        if kind_of(Path(name.inside)) in READERS:
            return Path(
                hf_hub_download(
                    name.repository, name.inside, repo_type="dataset", revision=name.revision
                )
            )
        folder = Path(
            snapshot_download(
                name.repository,
                repo_type="dataset",
                revision=name.revision,
                allow_patterns=[f"{name.inside}/*"],
            )
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError(
            f"dataset.{field} = {path!r} cannot be fetched: {_reason(error)}.",
            "Correct it, connect to the network, or set HF_TOKEN for a private dataset.",
        ) from error
    if not (folder / name.inside).is_dir():
        raise DataError(
            f"dataset.{field} = {path!r}: there is no such file or folder in {name.repository}.",
            "Correct what stands behind the repository; a pattern is not read.",
        )
    return folder / name.inside


def _reason(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".")
