"""Bring checkpoints home as they appear, so that losing a machine does not lose the job."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from blocks.task_scope import TaskScope
from blocks.workplaces.base import Workplace
from flows.logger import logger
from flows.streaming.fetching import fetch_folder
from flows.streaming.run_store import CHECKPOINTS, RunStore
from trainer.contract.checkpoints import all_checkpoints, check, step_of
from trainer.contract.errors import HomeDiskFull, IntegrityError
from trainer.contract.files import fsync_directory
from trainer.contract.manifest import MANIFEST, parse_manifest, read_manifest

NOTICE = "notice.json"
LOOK_SECONDS = 2.0
FULL_SECONDS = 30.0  # the same while there is no room here
KEPT = 2  # checkpoints at home: the newest, and one more in case that turns out to be damaged


class _Overtaken(Exception):
    """What is being fetched is no longer the most urgent."""


class CheckpointMirror:
    """Fetches the newest whole checkpoint of a job directory, again and again."""

    def __init__(
        self,
        workplace: Workplace,
        home: Path,
        came: Callable[[int], None] = lambda size: None,
        *,
        store: RunStore | None = None,
        python: str = "",
    ) -> None:
        """Prepare to fetch.

        Args:
            workplace: where the checkpoints are.
            home: the folder here.
            came: called with the bytes of each that came, or that the machine sent to the store.
            store: keeps them too, and instead of this computer where the machine can bring them there.
            python: the one there that has the trainer; empty: nothing is started there.
        """
        self._workplace = workplace
        self._came = came
        self._store = store
        self._python = python
        self._home = home
        self._refused: set[int] = set()
        self._overtaking: set[int] = set()
        self._is_full = False
        # `run` and the last `sync` of a training may overlap, and would share a folder.
        self._lock = asyncio.Lock()

    async def run(self) -> None:
        """Fetch whatever is new. Runs until it is cancelled.

        When the provider has announced that it takes the machine back, a newer checkpoint is not
        kept waiting for one that is on its way: it was saved for this.
        """
        while True:
            await self.sync()
            await asyncio.sleep(FULL_SECONDS if self._is_full else LOOK_SECONDS)

    async def sync(self, *, last: bool = False) -> None:
        """Fetch the newest checkpoint there that is not here and not refused.

        Args:
            last: whether the machine is about to be given back.

        Raises:
            ConnectionLost: the machine cannot be reached.
            HomeDiskFull: there is no room for the last one.
        """
        async with self._lock:
            while True:
                try:
                    return await self._sync(last)
                except _Overtaken:
                    continue

    async def _sync(self, last: bool) -> None:  # noqa: FBT001 - of `sync`
        have = {step_of(path) for path in all_checkpoints(self._home)}
        have |= set(self._store.steps() if self._store else ())
        # Newest first. An older one is fetched only when the newer is incomplete or refused.
        for step in await self._steps():
            if step in have:
                return
            if step >= 0 and step not in self._refused and await self._unless_overtaken(step, last):
                return

    async def _steps(self) -> list[int]:
        """Return the steps of the checkpoints there, the newest first."""
        names = await self._workplace.listing(CHECKPOINTS)
        return sorted((step_of(Path(name)) for name in names), reverse=True)

    async def _unless_overtaken(self, step: int, last: bool) -> bool:  # noqa: FBT001 - of `sync`
        """Fetch one checkpoint, as `_fetch` does.

        Raises:
            _Overtaken: a newer one was saved because the machine is being taken; what has arrived
                of this one is kept.
        """
        if not self._workplace.notice_command:
            return await self._fetch(step, last)
        async with TaskScope() as scope:
            fetch = scope.start(self._fetch(step, last))
            while not (await asyncio.wait({fetch}, timeout=LOOK_SECONDS))[0]:
                if await self._workplace.read(NOTICE) is None:
                    continue
                newest = max(await self._steps(), default=step)
                # Once each: one that cannot be fetched must not hold up the others for ever.
                if newest > step and newest not in self._refused | self._overtaking:
                    self._overtaking.add(newest)
                    raise _Overtaken
            return fetch.result()

    async def _fetch(self, step: int, last: bool) -> bool:  # noqa: FBT001 - of `sync`
        """Fetch one checkpoint; return whether it is here now, verified."""
        name = f"checkpoint-{step}"
        # Hidden until it is verified: `all_checkpoints` must never offer half of one.
        arriving = self._home / f".{name}"
        try:
            if await self._carried(step):
                return True
            fetched = await self._bring(name, arriving)
            await asyncio.to_thread(check, arriving)
        except FileNotFoundError:  # the trainer pruned it meanwhile, or it is not whole yet
            shutil.rmtree(arriving, ignore_errors=True)
            return False
        except IntegrityError as error:
            shutil.rmtree(arriving, ignore_errors=True)
            # Not tried again every two seconds: gigabytes would be fetched for nothing.
            self._refused.add(step)
            logger().warning("%s was not kept: %s", name, error)
            return False
        except HomeDiskFull as error:  # somebody may make room
            shutil.rmtree(arriving, ignore_errors=True)
            if last:
                raise
            if not self._is_full:
                logger().warning("%s was not kept: %s", name, error)
            self._is_full = True
            return False
        self._is_full = False
        self._came(fetched)
        # Renamed and synced before older ones are removed: a power cut in between leaves one.
        arriving.rename(self._home / name)
        fsync_directory(self._home)
        # Less than its size where files were linked from an earlier checkpoint.
        logger().info("%s is home, %.2f MB of it fetched", name, fetched / 1e6)
        for path in all_checkpoints(self._home)[KEPT:]:
            shutil.rmtree(path, ignore_errors=True)
        # A machine that only waits to be given back does not wait for this: home has it.
        if self._store and self._python:
            await self._store.keep(self._home / name)
        return True

    async def _bring(self, name: str, arriving: Path) -> int:
        """Bring the files of a checkpoint into a folder here; return the bytes fetched."""
        return await self._fetched_from(self._workplace, name, arriving)

    async def _fetched_from(self, workplace: Workplace, name: str, arriving: Path) -> int:
        return await fetch_folder(
            workplace,
            f"{CHECKPOINTS}/{name}",
            arriving,
            at_home=all_checkpoints(self._home),  # the tokenizer is the same in all
        )

    async def _carried(self, step: int) -> bool:
        """Let the machine bring a checkpoint to the store; return whether it is there."""
        if self._store is None:
            return False
        sent = await self._store.carry(self._workplace, self._python, step)
        if sent is None:
            return False
        self._came(sent)
        return True


async def put_back(
    workplace: Workplace,
    checkpoint: Path,
    manifest: Mapping[str, Any] | None = None,
    *,
    anew: bool = True,
) -> None:
    """Put a checkpoint into a job directory; its manifest goes last, so that it is whole or not there.

    Args:
        workplace: where the job directory is.
        checkpoint: the one here.
        manifest: of the part of it that is needed there; None: all of it.
        anew: bring files too that are there by the manifest there, which may be damaged.
    """
    manifest = manifest or read_manifest(checkpoint)
    folder = f"{CHECKPOINTS}/{checkpoint.name}"
    there = {} if anew else await _manifest_there(workplace, folder)
    if there == manifest:
        return
    # The rest of another save of this step: a file of it could be taken for one of this.
    if there.get("save") != manifest.get("save"):
        await workplace.remove([folder])
        there = {}
    held = there.get("files", {})
    for name, facts in manifest["files"].items():
        if held.get(name) != facts:
            await workplace.put(checkpoint / name, f"{folder}/{name}")
    await workplace.replace(f"{folder}/{MANIFEST}", json.dumps(manifest).encode())


async def _manifest_there(workplace: Workplace, folder: str) -> dict[str, Any]:
    content = await workplace.read(f"{folder}/{MANIFEST}")
    try:
        return parse_manifest(content or b"", folder)
    except IntegrityError:  # torn, or the machine wrote anything
        return {}
