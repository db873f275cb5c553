"""The splits of a dataset by the names that they usually have, as the Hub tells them apart."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import PurePath

NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
"""The usual splits, and what files and folders of them are called."""
HELD_OUT = ("validation", "test")
"""Where the rows for evaluation are, where nobody says it; the first that there is."""
# As in https://huggingface.co/docs/hub/datasets-file-names-and-splits
WORDS = {
    split: re.compile(rf"(?:^|[^a-z])(?:{'|'.join(names)})(?:[^a-z]|$)")
    for split, names in NAMES.items()
}


def split_of(name: str) -> str | None:
    """Return the split that a file, by its name in the dataset's folder, belongs to; or None."""
    path = PurePath(name.lower())
    # The outermost name counts: test/train.jsonl is of the test.
    for part in path.parts:
        for split, words in WORDS.items():
            if words.search(part):
                return split
    return None


def usual(split: str) -> str:
    """Return the usual name of a split: validation for dev."""
    return next((ours for ours, names in NAMES.items() if split.lower() in names), split)


def by_split(files: Iterable[str]) -> dict[str, list[str]]:
    """Return files by their split; where no name says it, all are to train on.

    A file without a split beside others that have one is to train on, too.
    """
    found: dict[str, list[str]] = {}
    for name in files:
        found.setdefault(split_of(name) or "train", []).append(name)
    return found
