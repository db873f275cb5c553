"""What of one run lies in the job's store, and how it gets there and back.

Where the store's addresses can be signed, the machine brings checkpoints there itself, and they do
not come home; else they come home, and go there from here. Trouble with the store never ends a
training: then checkpoints come home as if there were none.
"""

from __future__ import annotations

import asyncio
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

from blocks.stores.opening import open_bucket
from blocks.stores.store import KEPT, Store
from blocks.workplaces.base import Workplace
from flows.full_disk import save_anyway
from flows.logger import logger
from flows.run_folder import RunFolder
from flows.saved import stored_steps
from flows.streaming.carrying import Verb, carried
from flows.streaming.fetching import MAX_MANIFEST
from trainer.config import TrainingJob
from trainer.contract.checkpoints import all_checkpoints, check_names, step_of
from trainer.contract.errors import (
    ConfigError,
    DiskFull,
    IntegrityError,
    OrchestratorError,
    StoreAway,
    StoreError,
)
from trainer.contract.manifest import MANIFEST, parse_manifest

CHECKPOINTS = "checkpoints"
RUNS = "runs"
PATIENCE_SECONDS = (
    600.0  # of a store that is away, or refuses, while a machine waits for its checkpoint
)
PAUSE_SECONDS = 10.0
LOOK_SECONDS = 2.0
TRIES = 2  # for a machine to reach the store
UNFINISHED = timedelta(days=30)  # for which the checkpoints of a job that did not complete are kept
SWEPT = "swept"
"""The key of the object whose age is that of the last sweep."""
SWEEP_EVERY = timedelta(days=1)


class RunStore:
    """The checkpoints and the result of one run in its job's store."""

    def __init__(self, store: Store, run: RunFolder, *, alone: bool = True) -> None:
        """Prepare to use a store.

        Args:
            store: the job's.
            run: what is kept here of the run.
            alone: whether one machine trains the job.
        """
        self.store = store
        self._run = run
        self._alone = alone
        self._away = 0
        """How often in a row the machine did not reach the store."""
        self._refused: set[str] = set()
        self._may_carry = alone and store.bucket.can_sign
        self._by_role = alone
        """Whether a machine's own role is tried."""

    @classmethod
    async def of(cls, job: TrainingJob, run: RunFolder) -> Self | None:
        """Return the run's part of the job's store; None if there is none, or it cannot be opened."""
        if job.store is None:
            return None
        try:
            store = Store(await open_bucket(job.store))
        except OrchestratorError as error:
            # Looked at before the start; now a training is not to end by it.
            logger().error("nothing goes to the store: %s", error)
            return None
        return cls(store, run, alone=job.resources.nodes == 1)

    def steps(self) -> list[int]:
        """Return the steps of the checkpoints that are there, the newest first."""
        return stored_steps(self._run)

    def aside(self) -> list[int]:
        """Return the steps of those that are there, and could not be read when they were wanted."""
        return stored_steps(self._run, "aside")

    def name_of(self, what: str) -> str:
        """Return what a folder of the run is called in the store."""
        return f"{RUNS}/{self._run.run_id}/{what}"

    # There -----------------------------------------------------------------------------------

    async def carry(self, workplace: Workplace, python: str, step: int) -> int | None:
        """Let the machine bring a checkpoint to the store.

        Returns:
            The bytes that it sent; None where it cannot, and the checkpoint has to come home.

        Raises:
            FileNotFoundError: the checkpoint is not whole, or not there any more.
            IntegrityError: it is damaged, or lacks what resuming needs.
            ConnectionLost: the machine cannot be reached.
        """
        if not (self._may_carry and workplace.carries and python):
            return None
        folder = f"{CHECKPOINTS}/checkpoint-{step}"
        content = await self._manifest_of(workplace, folder)
        manifest = parse_manifest(content, folder)
        check_names(manifest, folder)
        files: dict[str, dict[str, Any]] = manifest["files"]
        try:
            absent = await self.store.missing(files)
            if any(files[name]["bytes"] > self.store.largest for name in absent):
                logger().info("%s has a file that is too large for one request", folder)
                return None
            wanted = {name: files[name] for name in absent}
            await self._carried(workplace, python, "put", folder, wanted)
            # What the machine says is not taken for granted: without these there is no checkpoint.
            if left := await self.store.missing(wanted):
                raise StoreAway(f"{left[0]} of {folder} did not arrive.")  # noqa: TRY301
            await self._commit(step, content)
        except StoreAway as error:
            # Away from here it is tried again; that a machine never reaches it is another matter.
            self._away += 1
            self._may_carry = self._away < TRIES
            logger().warning("checkpoint-%d comes home: %s", step, error)
            return None
        except (StoreError, ConfigError, DiskFull) as error:
            # It would be refused again and again.
            self._may_carry = False
            logger().warning("checkpoints come home, and go to the store from here: %s", error)
            return None
        self._away = 0
        sent = sum(int(facts["bytes"]) for facts in wanted.values())
        where = self.store.bucket.url
        logger().info("checkpoint-%d is in %s, %.2f MB of it sent", step, where, sent / 1e6)
        return sent

    async def keep(self, checkpoint: Path) -> None:
        """Put a checkpoint of this computer into the store, unless it is there; trouble is logged."""
        step = step_of(checkpoint)
        if step in self.steps() or checkpoint.name in self._refused:
            return
        try:
            sent = await self.store.put_folder(checkpoint, self.name_of(checkpoint.name))
            await self._noted(step)
        except (StoreError, IntegrityError, OSError) as error:
            logger().warning("%s is not in the store: %s", checkpoint.name, error)
            # Not again and again: the next one may fare better.
            self._refused.add(checkpoint.name)
            return
        where = self.store.bucket.url
        logger().info("%s is in %s, %.2f MB of it sent", checkpoint.name, where, sent / 1e6)

    async def keep_newest(self, folder: Path) -> None:
        """Put the newest checkpoint of a folder of this computer into the store; see `keep`."""
        for checkpoint in all_checkpoints(folder)[:1]:
            if (checkpoint / MANIFEST).exists():
                await self.keep(checkpoint)

    async def follow(self, folder: Path) -> None:
        """Put the newest checkpoint of a folder here into the store, again and again, until cancelled."""
        while True:
            await self.keep_newest(folder)
            await asyncio.sleep(LOOK_SECONDS)

    async def keep_result(self, folder: Path) -> str:
        """Put the result into the store, and take the run's checkpoints out; return where it is.

        Raises:
            IntegrityError: it is damaged.
            StoreError: the store refuses, or cannot be reached.
        """
        name = self.name_of("output")
        await self.store.put_folder(folder, name)
        all_steps = [*self.steps(), *self.aside()]
        await self.store.forget([self.name_of(f"checkpoint-{step}") for step in all_steps])
        self._note([], [])
        return str(self.store.bucket.url.inside(name))

    async def sweep(self) -> None:
        """Remove what the store need not keep, once a day whoever asks; trouble is logged.

        Checkpoints of jobs that did not complete go after a month, and then the objects that no
        manifest names any more.
        """
        bucket, now = self.store.bucket, datetime.now(UTC)
        try:
            last = await bucket.head(SWEPT)
            if last and now - last.modified < SWEEP_EVERY:
                return
            await bucket.put(SWEPT, now.isoformat().encode())
            old = [
                entry.key.rpartition("/")[0]
                for entry in await bucket.entries(RUNS)
                if entry.key.endswith(MANIFEST)
                and "/checkpoint-" in entry.key
                and now - entry.modified > UNFINISHED
            ]
            await self.store.forget(old)
            removed = await self.store.sweep()
        except (StoreError, IntegrityError) as error:
            logger().warning("the store is not swept: %s", error)
            return
        size = sum(entry.bytes for entry in removed)
        logger().info("swept %s: %.2f MB that nothing names", bucket.url, size / 1e6)

    # And back --------------------------------------------------------------------------------

    async def give(self, workplace: Workplace, python: str, beyond: int) -> bool:
        """Put the newest checkpoint of the store into a job directory, if it is newer than a step.

        Returns:
            Whether one is there now. A damaged one is passed over for the one before it; one that
            cannot be read now is kept in mind for the next machine.
        """
        if not self._alone:  # the others are given what is here
            return False
        until = datetime.now(UTC) + timedelta(seconds=PATIENCE_SECONDS)
        for step in sorted({*self.steps(), *self.aside()}, reverse=True):
            if step <= beyond:
                break
            # The training goes on from before it, and may come to save this step again.
            steps, aside = self._without(step)
            try:
                if await self._patiently_given(workplace, python, step, until):
                    self._note([*steps, step], aside)
                    return True
            except StoreError as error:
                logger().error("checkpoint-%d is left in the store for now: %s", step, error)
                self._note(steps, [*aside, step])
            except (IntegrityError, FileNotFoundError) as error:
                logger().error("checkpoint-%d of the store cannot be used: %s", step, error)
                self._note(steps, aside)
        return False

    async def _patiently_given(
        self, workplace: Workplace, python: str, step: int, until: datetime
    ) -> bool:
        while True:
            try:
                return await self._given(workplace, python, step)
            # One that refuses too: a key that has run out is soon replaced, and the steps are not.
            except StoreError as error:
                if datetime.now(UTC) > until:
                    raise
                logger().warning("waiting for the store: %s", error)
            await asyncio.sleep(PAUSE_SECONDS)

    async def _given(self, workplace: Workplace, python: str, step: int) -> bool:
        name, folder = self.name_of(f"checkpoint-{step}"), f"{CHECKPOINTS}/checkpoint-{step}"
        manifest = await self.store.manifest(name)
        if manifest is None:
            raise FileNotFoundError(f"{self.store.bucket.url} has no {name}")
        if self._may_carry and workplace.carries:
            try:
                await self._carried(workplace, python, "get", folder, manifest["files"])
            except StoreAway:
                raise
            except StoreError as error:
                self._may_carry = False
                logger().warning("%s goes through this computer: %s", folder, error)
            else:
                content = await self.store.bucket.get(f"{name}/{MANIFEST}")
                await workplace.replace(f"{folder}/{MANIFEST}", content)
        if not (self._may_carry and workplace.carries):
            await self._given_from_here(workplace, name, folder)
        logger().info("continuing from checkpoint-%d of %s", step, self.store.bucket.url)
        return True

    async def _carried(
        self, workplace: Workplace, python: str, verb: Verb, folder: str, files: dict[str, Any]
    ) -> None:
        """Let the machine carry files: by its own role in the same cloud, else by signed addresses."""
        role = workplace.role_at(self.store.bucket.url) if self._by_role else None
        if role:
            try:
                await carried(self.store, workplace, python, verb, folder, files, role)
            except StoreAway:
                raise
            except (StoreError, ConfigError) as error:
                self._by_role = False
                logger().info("by signed addresses, and not by the machine's role: %s", error)
                if verb == "put":
                    absent = await self.store.missing(files)
                    files = {name: files[name] for name in absent}
            else:
                return
        await carried(self.store, workplace, python, verb, folder, files)

    async def _given_from_here(self, workplace: Workplace, name: str, folder: str) -> None:
        """Put a checkpoint of the store into a job directory through this computer."""
        arriving = self._run.root / ".from-store"
        try:
            manifest = await self.store.get_folder(name, arriving)
            for file in [*manifest["files"], MANIFEST]:
                await workplace.put(arriving / file, f"{folder}/{file}")
        finally:
            shutil.rmtree(arriving, ignore_errors=True)

    async def _manifest_of(self, workplace: Workplace, folder: str) -> bytes:
        """Return a manifest that is on the machine, however much it says it is."""
        copy = self._run.root / ".manifest"
        await workplace.fetch(f"{folder}/{MANIFEST}", copy, limit=MAX_MANIFEST)
        try:
            return copy.read_bytes()
        finally:
            copy.unlink()

    async def _commit(self, step: int, content: bytes) -> None:
        await self.store.commit(self.name_of(f"checkpoint-{step}"), content)
        await self._noted(step)

    async def _noted(self, step: int) -> None:
        """Note that a checkpoint is there, and take out all but the newest."""
        others, aside = self._without(step)
        steps = sorted({step, *others}, reverse=True)
        # What is further on than this is worth more than it, should the store hand it out again.
        ahead = [other for other in aside if other > step]
        self._note(steps[:KEPT], ahead)
        old = {*steps[KEPT:], *aside} - {*steps[:KEPT], *ahead}
        await self.store.forget([self.name_of(f"checkpoint-{one}") for one in sorted(old)])

    def _without(self, step: int) -> tuple[list[int], list[int]]:
        """Return what is noted, and what is set aside, but for one step."""
        steps, aside = self.steps(), self.aside()
        return [one for one in steps if one != step], [one for one in aside if one != step]

    def _note(self, steps: list[int], aside: list[int]) -> None:
        noted = {"url": str(self.store.bucket.url), "steps": steps, "aside": aside}
        save_anyway(self._run.stored, noted)
