"""MANIFEST.json: every file of a folder with its size and SHA-256. Stdlib only.

A folder is whole when its manifest is there and holds. The manifest is written last, after
every file is on the disk, so that a folder torn by a crash can never look whole.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

from trainer.contract.errors import IntegrityError
from trainer.contract.files import NOT_JSON, fsync_directory, replace_json, sha256_of

MANIFEST = "MANIFEST.json"
LONGEST_NAME = 240  # bytes of each part; file systems take 255, and we append to it
WEIGHTS = ".safetensors"
PICKLES = {".bin", ".ckpt", ".joblib", ".npy", ".npz", ".pickle", ".pkl", ".pt", ".pt2", ".pth"}
"""What pickles are called: to load one is to run what its maker put there."""
NOT_KEPT = "The output was not kept. Let the trainer write it again, on a machine that you trust."
MOST_PROCESSES = 1 << 20
MAX_FILES = 100_000  # more than this in one manifest is an attack, not a model


def write_manifest(folder: Path, **facts: Any) -> dict[str, Any]:
    """Sync every file of `folder` to disk, then write its manifest; return the manifest.

    Args:
        folder: what to describe; files in sub-folders count, symbolic links are refused.
        facts: further entries for the manifest, such as `step`.
    """
    files: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.rglob("*")):
        # Followed, it could describe a file outside the folder, and its target may change later.
        if path.is_symlink():
            raise IntegrityError(f"{path} is a symbolic link; a manifest describes files only.")
        if path.is_dir():
            fsync_directory(path)
        elif path.name != MANIFEST:
            # Data before the manifest: a manifest that survives a power cut must not describe files
            # that did not. Syncing works on a descriptor that was opened for reading.
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
            name = path.relative_to(folder).as_posix()
            files[name] = {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
    manifest = {"version": 1, **facts, "files": files}
    # Last, and durably: its presence is what says that the folder is whole.
    replace_json(folder / MANIFEST, manifest)
    return manifest


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of `folder` after checking its shape and its names.

    Raises:
        IntegrityError: it is missing, is not a manifest, or names a file outside the folder.
    """
    try:
        content = (folder / MANIFEST).read_bytes()
    except FileNotFoundError:
        raise IntegrityError(f"{folder} has no {MANIFEST}: it was never finished.") from None
    except OSError as error:
        raise IntegrityError(f"{folder / MANIFEST} cannot be read: {error}.") from error
    return parse_manifest(content, str(folder / MANIFEST))


def parse_manifest(content: bytes, where: str) -> dict[str, Any]:
    """Return a manifest after checking its shape and its names.

    Args:
        content: of the file.
        where: it is, for messages.

    Raises:
        IntegrityError: it is not a manifest, or names a file outside the folder.
    """
    try:
        manifest = json.loads(content.decode())
    except NOT_JSON as error:
        raise IntegrityError(f"{where} cannot be read: {error}.") from error
    files = manifest.get("files") if isinstance(manifest, dict) else None
    if not isinstance(files, dict) or len(files) > MAX_FILES:
        raise IntegrityError(f"{where} is not a manifest.")
    for name, facts in files.items():
        check_name(name)
        if not _is_usable(facts):
            raise IntegrityError(f"{where} says nothing usable about {name!r}.")
    if not _counts_are_usable(manifest):
        raise IntegrityError(f"{where} says nothing usable about processes and parts.")
    parents = {str(parent) for name in files for parent in PurePosixPath(name).parents}
    # Fetching such a manifest would have to create one name twice, and fail in the middle.
    if both := parents & files.keys():
        raise IntegrityError(f"{where} names {min(both)!r} as a file and a folder.")
    return dict(manifest)


def _is_usable(facts: Any) -> bool:
    return (
        isinstance(facts, dict)
        and type(facts.get("bytes")) is int
        and facts["bytes"] >= 0
        and isinstance(facts.get("sha256"), str)
    )


def _counts_are_usable(manifest: dict[str, Any]) -> bool:
    """Whether what it says of the processes and machines that wrote a checkpoint can be counted with."""
    numbers = [manifest.get(*field) for field in (("processes", 1), ("parts", 1), ("part", 0))]
    if not all(type(number) is int and 0 <= number <= MOST_PROCESSES for number in numbers):
        return False
    processes, parts, part = numbers
    of_parts = manifest.get("of_parts", [])
    names_files = isinstance(of_parts, list) and all(
        isinstance(names, list)
        and all(isinstance(name, str) for name in names)
        and manifest["files"].keys() >= set(names)
        for names in of_parts
    )
    return bool(names_files and part < parts and processes and processes % parts == 0)


def check_name(name: str) -> None:
    """Refuse a name that could leave the folder, or that no file system takes as it is."""
    path = PurePosixPath(name)
    plain = name.isprintable() and "\\" not in name and str(path) == name and name != "."
    short = plain and max(map(len, map(str.encode, path.parts))) <= LONGEST_NAME
    if not short or path.is_absolute() or ".." in path.parts or name == MANIFEST:
        raise IntegrityError(f"{name[:300]!r} is not the name of a file inside the folder.")


def verify(folder: Path) -> dict[str, Any]:
    """Check every file of `folder` against its manifest and return the manifest.

    Raises:
        IntegrityError: naming the first file that is missing, is not a regular file, or differs.
    """
    manifest = read_manifest(folder)
    for name, facts in manifest["files"].items():
        path = folder / name
        try:
            # lstat: a link that a hostile machine put there must not be followed.
            status = path.lstat()
        except OSError:
            raise IntegrityError(f"{path} is missing.") from None
        if not stat.S_ISREG(status.st_mode):
            raise IntegrityError(f"{path} is not a regular file.")
        # Cheaper than hashing gigabytes, and a more helpful message for a torn file.
        if status.st_size != facts["bytes"]:
            raise IntegrityError(
                f"{path} has {status.st_size} bytes, its manifest says {facts['bytes']}."
            )
        if sha256_of(path) != facts["sha256"]:
            raise IntegrityError(f"{path} does not have the SHA-256 that its manifest says.")
    return manifest


def refuse_pickles(files: Iterable[str]) -> None:
    """Refuse an output by the names of its files.

    Raises:
        IntegrityError: one is a pickle, or there are no weights as safetensors.
    """
    names = sorted(files)
    # By name only: whatever is loaded by these names may run code (torch.load unpickles).
    pickles = [name for name in names if PurePosixPath(name).suffix.lower() in PICKLES]
    if pickles:
        raise IntegrityError(
            f"The output holds {pickles[0]!r}, a pickle: loading one runs what its maker put there.",
            NOT_KEPT,
        )
    if not any(name.endswith(WEIGHTS) for name in names):
        raise IntegrityError(f"The output holds no weights as {WEIGHTS}.", NOT_KEPT)
