"""Bring home checkpoints of which every machine holds a part: see `trainer.contract.parts`."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from blocks.task_scope import all_of
from blocks.workplaces.base import Workplace
from flows.streaming.checkpoint_mirror import CheckpointMirror
from trainer.contract.files import replace_json
from trainer.contract.manifest import MANIFEST, read_manifest
from trainer.contract.parts import is_part, whole

PARTS = ".parts"
"""The folder in which the parts arrive, each in one of its own."""

Work = Callable[[Workplace], Awaitable[int]]
Reach = Callable[[Work], Awaitable[int]]
"""Does some work over a connection to one of the other machines, however often that is lost."""


class PartsMirror(CheckpointMirror):
    """Fetches each machine's part over a connection of its own, and puts them together here.

    There is no checkpoint before all parts are here, whole and of one save.
    """

    def __init__(
        self, workplace: Workplace, home: Path, *args: Any, others: Sequence[Reach], **kwargs: Any
    ) -> None:
        """Prepare to fetch.

        Args:
            workplace: the job directory on the first machine.
            home: the folder here.
            args: see `CheckpointMirror`.
            others: how each of the other machines is reached, by rank.
            kwargs: see `CheckpointMirror`.
        """
        super().__init__(workplace, home, *args, **kwargs)
        self._others = others

    async def _bring(self, name: str, arriving: Path) -> int:
        folders = [arriving / PARTS / str(rank) for rank in range(1 + len(self._others))]
        first, *rest = [partial(self._part, name, folder) for folder in folders]
        sizes = await all_of(
            [
                first(self._workplace),
                *(reach(work) for reach, work in zip(self._others, rest, strict=True)),
            ]
        )
        await asyncio.to_thread(put_together, arriving, folders)
        return sum(sizes)

    async def _part(self, name: str, folder: Path, workplace: Workplace) -> int:
        return await self._fetched_from(workplace, name, folder)


def put_together(arriving: Path, folders: Sequence[Path]) -> None:
    """Make one checkpoint of its parts.

    Args:
        arriving: where it goes.
        folders: in it, of the parts, by rank; they are gone afterwards.

    Raises:
        IntegrityError: they are not the parts of one checkpoint.
    """
    # What an interrupted attempt has put together is fetched again, for it is in no part any more.
    for path in arriving.iterdir():
        if path.name != PARTS:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    manifests = [read_manifest(folder) for folder in folders]
    if not is_part(manifests[0]):  # that which all have got from here holds all parts
        manifests = manifests[:1]
    manifest = manifests[0] if len(manifests) == 1 else whole(manifests, arriving.name)
    for folder, one in zip(folders, manifests, strict=False):
        for name in one["files"]:
            target = arriving / name
            target.parent.mkdir(parents=True, exist_ok=True)
            (folder / name).replace(target)
    shutil.rmtree(arriving / PARTS)
    replace_json(arriving / MANIFEST, manifest)
