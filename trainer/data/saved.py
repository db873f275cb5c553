"""Folders that other projects have written, and what lies in them beside rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainer.contract.errors import DataError
from trainer.contract.files import read_json
from trainer.data.parsing import kind_of, opened_arrow
from trainer.data.problems import listed
from trainer.data.splits import usual

STATE, SPLITS, INFO = "state.json", "dataset_dict.json", "dataset_info.json"
DESCRIPTIONS = {STATE, SPLITS, INFO, "dataset_infos.json"}
"""Files of JSON that describe rows and hold none."""
OF_ENTRIES = {
    "file_name",
    "hf_hub_url",
    "ms_hub_url",
    "om_hub_url",
    "script_url",
    "cloud_file_name",
}
"""By one of them every entry of LLaMA-Factory's dataset_info.json says where its rows are."""


def is_saved(folder: Path) -> bool:
    """Whether a folder is what `save_to_disk` of the library `datasets` leaves."""
    return (folder / STATE).is_file() or (folder / SPLITS).is_file()


def saved_files(
    folder: Path, splits: Sequence[str], field: str
) -> tuple[dict[str, Path], list[str]]:
    """Return the files of a saved dataset in their order, by name, and the splits beside.

    Args:
        folder: see `is_saved`.
        splits: in order of preference; a dataset that was saved alone has none.
        field: of the dataset's settings, which names the folder.

    Raises:
        DataError: it has no such split, or is not whole.
    """
    if not (folder / SPLITS).is_file():
        return _of_state(folder, folder, field), []
    there = [str(name) for name in (read_json(folder / SPLITS) or {}).get("splits", [])]
    wanted = [usual(split) for split in splits]
    chosen = next((name for want in wanted for name in there if usual(name) == want), None)
    if chosen is None:
        raise DataError(
            f"dataset.{field} = {str(folder)!r}: there is no split {' or '.join(splits)}; there are "
            f"{', '.join(there) or 'none'}.",
            f"Name one of them in dataset.{'split' if field == 'path' else 'eval_split'}.",
        )
    return _of_state(folder / chosen, folder, field), [name for name in there if name != chosen]


def _of_state(folder: Path, root: Path, field: str) -> dict[str, Path]:
    state: dict[str, Any] = read_json(folder / STATE) or {}
    # An older version kept a choice and an order of rows apart from them.
    is_whole = not state.get("_indices_data_files")
    names = [str(each.get("filename")) for each in state.get("_data_files") or []]
    if not names or not is_whole:
        what = "no files are named there" if is_whole else "it is of an old version, with indices"
        raise DataError(
            f"dataset.{field} = {str(root)!r}: {folder / STATE} cannot be used: {what}.",
            "Save it again: datasets.load_from_disk(…).save_to_disk(…).",
        )
    return {(folder / name).relative_to(root).as_posix(): folder / name for name in names}


def class_names(path: Path) -> dict[str, list[str]]:
    """Return the names of classes by the column that holds their numbers.

    The library `datasets` writes them into the files that it saves; others have none.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if kind_of(path) == ".parquet":
            schema = pq.read_schema(path)
        elif kind_of(path) == ".arrow":
            with pa.memory_map(str(path)) as stream:
                schema = opened_arrow(pa, stream).schema
        else:
            return {}
        told = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = told["info"]["features"].items()
    # Reading the rows says what is wrong with a file; and others may write what they like there.
    except (OSError, pa.ArrowException, ValueError, LookupError, TypeError, AttributeError):
        return {}
    return {
        name: list(feature["names"])
        for name, feature in features
        if isinstance(feature, dict) and isinstance(feature.get("names"), list)
    }


def refuse_index(folder: Path, field: str) -> None:
    """Refuse a folder of LLaMA-Factory, whose dataset_info.json says which files are which data sets.

    Raises:
        DataError: it is one.
    """
    index = read_json(folder / INFO) or {}
    entries = {
        name: e for name, e in index.items() if isinstance(e, dict) and OF_ENTRIES & e.keys()
    }
    if not entries:
        return
    first = next((str(e["file_name"]) for e in entries.values() if e.get("file_name")), "FILE")
    raise DataError(
        f"dataset.{field} = {str(folder)!r} is a folder of LLaMA-Factory: its {INFO} lists the data "
        f"sets {listed(entries)}.",
        f"Name the file of one, such as {folder / first}, or several as a list; layouts are "
        "recognised by their columns.",
    )
