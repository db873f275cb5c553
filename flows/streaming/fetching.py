"""Bring a folder with a manifest home from a machine that is not to be trusted."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from blocks.workplaces.base import Workplace
from trainer.contract.errors import HomeDiskFull, IntegrityError
from trainer.contract.files import sha256_of
from trainer.contract.manifest import MANIFEST, read_manifest

MAX_MANIFEST = 64 << 20  # bytes; a hundred thousand files need less
SPARE = 256 << 20  # bytes that stay free on our disk: logs and journals are written there too


async def fetch_folder(
    workplace: Workplace,
    source: str,
    folder: Path,
    *,
    refuse: Callable[[Mapping[str, Any]], None] = lambda files: None,
    at_home: Iterable[Path] = (),
) -> int:
    """Bring home what the manifest of `source` names, and nothing else; return the bytes fetched.

    What arrived before is not fetched again, nor is what another folder here holds: its file is
    linked. A file that differs is fetched once more, because the transfer may have damaged it; if
    it differs again, it is refused.

    Args:
        workplace: where it is.
        source: the folder there.
        folder: where it goes.
        refuse: raises when a name must not come here; called before any file is fetched.
        at_home: folders here with manifests, that may hold some of the same files.

    Raises:
        FileNotFoundError: there is no manifest, or a file of it is gone.
        IntegrityError: a file is not what the manifest says, or the manifest is not a manifest.
        HomeDiskFull: it does not fit here; nothing was fetched.
        ConnectionLost: the machine cannot be reached; what arrived is kept.
    """
    folder.mkdir(parents=True, exist_ok=True)  # noqa: ASYNC240 - a moment
    await workplace.fetch(f"{source}/{MANIFEST}", folder / MANIFEST, limit=MAX_MANIFEST)
    files = read_manifest(folder)["files"]
    refuse(files)
    _forget_others(folder, set(files))
    # What an earlier attempt fetched as a whole needs no more room, however full the disk is now.
    total = int(sum(facts["bytes"] for facts in files.values()))
    free = shutil.disk_usage(folder).free
    if total > free - SPARE and total > sum(_size(folder / name) for name in files):
        raise HomeDiskFull(f"{source} has {total} bytes and {folder} has {free} free.")
    known = _by_sha256(at_home)
    fetched = 0
    for name, facts in files.items():
        if twin := known.get(facts["sha256"]):
            await asyncio.to_thread(_take_over, twin, folder / name)
        fetched += await _fetch(workplace, f"{source}/{name}", folder / name, facts)
    return fetched


def _by_sha256(folders: Iterable[Path]) -> dict[str, Path]:
    """Return the files of folders with manifests, by the SHA-256 in those."""
    found = {}
    for folder in folders:
        with suppress(IntegrityError):
            for name, facts in read_manifest(folder)["files"].items():
                found[facts["sha256"]] = folder / name
    return found


def _take_over(twin: Path, target: Path) -> None:
    """Put a file that is here already where it is needed too; the caller compares its hash."""
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(twin, target)
    except OSError:  # gone meanwhile, on another disk, or on a file system without hard links
        with suppress(OSError):
            shutil.copyfile(twin, target)


async def _fetch(workplace: Workplace, source: str, target: Path, facts: dict[str, object]) -> int:
    size = int(str(facts["bytes"]))
    if await asyncio.to_thread(_is_there, target, facts):
        return 0
    for _ in range(2):
        # A machine that claims a terabyte sends no more than its manifest announced.
        transfer = await workplace.fetch(source, target, limit=size)
        if transfer.sha256 == facts["sha256"] and transfer.bytes == size:
            return size
        # Not left under its name: when this raises, nothing damaged stays behind.
        target.unlink()  # noqa: ASYNC240 - a moment
    raise IntegrityError(f"{target.name} arrived with another SHA-256 than its manifest says.")


def _forget_others(folder: Path, names: set[str]) -> None:
    """Remove the rest of an earlier attempt that the manifest does not name."""
    # A file that nobody verified would otherwise move into place with the artifact.
    for path in [p for p in folder.rglob("*") if p.is_file() or p.is_symlink()]:
        name = path.relative_to(folder).as_posix()
        if name != MANIFEST and name.removesuffix(".part") not in names:
            path.unlink()


def _is_there(path: Path, facts: dict[str, object]) -> bool:
    """Whether an earlier attempt has brought a file already."""
    return (
        path.is_file()
        and path.stat().st_size == facts["bytes"]
        and sha256_of(path) == facts["sha256"]
    )


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
