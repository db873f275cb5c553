"""Content-addressed objects, and manifests that make folders of them.

    objects/<SHA-256>                         what a file holds, whatever it is called
    runs/<run>/checkpoint-<N>/MANIFEST.json   a checkpoint: names, sizes and hashes of its files
    runs/<run>/output/MANIFEST.json           an artifact

The manifest is written last: a folder is whole, or it is not there. Equal files are kept once, and
sent once. An object goes up in one piece, so a cut transfer leaves nothing behind; it begins anew.
"""

from __future__ import annotations

import asyncio
import hashlib
import mmap
import os
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event
from typing import Any

from blocks.stores.bucket import Bucket, Content, Entry
from blocks.task_scope import all_of
from blocks.threads import in_thread
from trainer.contract.errors import IntegrityError
from trainer.contract.files import fsync_directory, sha256_of
from trainer.contract.manifest import MANIFEST, parse_manifest, read_manifest

OBJECTS = "objects"
PARALLEL = 8  # files on their way at once
LARGEST = {"s3": 5 << 30, "az": 5000 << 20}
"""Bytes that one request may bring; Google takes five terabytes."""
PART = ".part"
HASH = re.compile(r"[0-9a-f]{64}")
KEPT = 2  # checkpoints of a run that is under way, as at home
GRACE = timedelta(days=1)
"""For how long an object that no manifest names is kept: its manifest may be about to be written."""
REFRESH = GRACE / 2
"""The age from which an object that is there already is written again, so that its age is that of its
last use. So no sweep takes it from a folder whose manifest is not written yet."""
MAX_MANIFEST = 64 << 20  # bytes
Progress = Callable[[int], None]


def object_key(sha256: str) -> str:
    """Return the key of what has this hash.

    Raises:
        IntegrityError: it is none; it may come from a manifest that somebody else wrote.
    """
    if not HASH.fullmatch(sha256):
        raise IntegrityError(f"{sha256[:80]!r} is no SHA-256.")
    return f"{OBJECTS}/{sha256}"


def manifest_key(name: str) -> str:
    """Return the key of the manifest of a folder."""
    return f"{name}/{MANIFEST}"


class Store:
    """The objects and manifests in a bucket."""

    def __init__(self, bucket: Bucket) -> None:
        self.bucket = bucket

    @property
    def largest(self) -> int:
        """Bytes of the largest file that one request may bring."""
        return LARGEST.get(self.bucket.url.scheme, 5 << 40)

    async def put_folder(
        self, folder: Path, name: str, progress: Progress = lambda size: None
    ) -> int:
        """Write a folder that has a manifest; return the bytes that had to be sent.

        Args:
            folder: on this computer; it must not change meanwhile.
            name: what it is called in the store.
            progress: called with the bytes of each file that is there now.

        Raises:
            IntegrityError: a file is not what the manifest says; the folder is not in the store.
            StoreError: the store refuses, or cannot be reached.
        """
        content = await asyncio.to_thread((folder / MANIFEST).read_bytes)
        files = await asyncio.to_thread(lambda: read_manifest(folder)["files"])
        absent = await self.missing(files)

        async def send(file: str) -> None:
            await self._send(folder / file, files[file])
            progress(files[file]["bytes"])

        await _all(send, absent)
        await self.commit(name, content)
        return sum(files[file]["bytes"] for file in absent)

    async def missing(self, files: Mapping[str, Mapping[str, Any]]) -> list[str]:
        """Return the names of files, one of each content, that the store does not hold yet.

        Raises:
            StoreError: the store refuses, or cannot be reached.
        """
        of_each = {facts["sha256"]: name for name, facts in files.items()}
        absent: list[str] = []
        young = datetime.now(UTC) - REFRESH

        async def look(sha256: str) -> None:
            name = of_each[sha256]
            found = await self.bucket.head(object_key(sha256))
            if not found or found.bytes != files[name]["bytes"] or found.modified < young:
                absent.append(name)

        await _all(look, of_each)
        return sorted(absent)

    async def commit(self, name: str, manifest: bytes) -> None:
        """Write the manifest of a folder whose files are all there: from now on it is there too.

        Raises:
            StoreError: the store refuses, or cannot be reached.
        """
        key = manifest_key(name)
        # A step that was trained again after a loss may differ from the first time in its last bits.
        if not await self.bucket.create(key, manifest) and await self.bucket.get(key) != manifest:
            await self.bucket.put(key, manifest)

    async def manifest(self, name: str) -> dict[str, Any] | None:
        """Return the manifest of a folder, checked; None if there is no such folder.

        Raises:
            IntegrityError: what is there is no manifest.
            StoreError: the store refuses, or cannot be reached.
        """
        key = manifest_key(name)
        found = await self.bucket.head(key)
        if found is None:
            return None
        if found.bytes > MAX_MANIFEST:
            raise IntegrityError(f"{self.bucket.url.inside(key)} is too large for a manifest.")
        try:
            content = await self.bucket.get(key)
        except FileNotFoundError:
            return None
        return parse_manifest(content, str(self.bucket.url.inside(key)))

    async def get_folder(
        self, name: str, folder: Path, progress: Progress = lambda size: None
    ) -> dict[str, Any]:
        """Read a folder into one here, verified; return its manifest.

        What an earlier attempt brought whole is not fetched again. The manifest is written last.

        Raises:
            FileNotFoundError: there is no such folder.
            IntegrityError: a file is not what the manifest says, even when it is read again.
            StoreError: the store refuses, or cannot be reached.
        """
        manifest = await self.manifest(name)
        if manifest is None:
            raise FileNotFoundError(f"{self.bucket.url} has no {name}")
        files = manifest["files"]

        async def bring(file: str) -> None:
            await self.get_file(files[file], folder / file)
            progress(files[file]["bytes"])

        await _all(bring, files)
        content = await self.bucket.get(manifest_key(name))
        await asyncio.to_thread(_write_last, folder / MANIFEST, content)
        return manifest

    async def get_file(self, facts: Mapping[str, Any], target: Path) -> None:
        """Read one object into a file here, verified while it arrives; see `get_folder`."""
        target.parent.mkdir(parents=True, exist_ok=True)
        if await asyncio.to_thread(_is_there, target, facts):
            return
        for _ in range(2):
            try:
                if await in_thread(lambda stop: self._receive(facts, target, stop)):
                    return
            except FileNotFoundError as error:
                raise IntegrityError(f"{error}, which a manifest names.") from None
        key = object_key(facts["sha256"])
        raise IntegrityError(
            f"{self.bucket.url.inside(key)} does not hold what its name says ({target.name}).",
            "It was not kept. Remove that object: the next one that has this content writes it anew.",
        )

    async def names(self, prefix: str) -> list[str]:
        """Return the names of the folders that are there below a prefix, sorted.

        Raises:
            StoreError: the store refuses, or cannot be reached.
        """
        ending = f"/{MANIFEST}"
        keys = [entry.key for entry in await self.bucket.entries(prefix)]
        return [key.removesuffix(ending) for key in keys if key.endswith(ending)]

    async def forget(self, names: Sequence[str]) -> None:
        """Remove folders; their objects go with the next `sweep` unless others have them too.

        Raises:
            StoreError: the store refuses, or cannot be reached.
        """
        await self.bucket.delete([manifest_key(name) for name in names])

    async def sweep(self, now: datetime | None = None) -> list[Entry]:
        """Remove the objects that no manifest has named for a day; return them.

        Raises:
            IntegrityError: a manifest cannot be read, so what it names is not known.
            StoreError: the store refuses, or cannot be reached.
        """
        # Objects first: one that is written after this listing is not in it.
        objects = await self.bucket.entries(OBJECTS)
        named: set[str] = set()

        async def look(name: str) -> None:
            if manifest := await self.manifest(name):
                named.update(facts["sha256"] for facts in manifest["files"].values())

        await _all(look, await self.names("runs"))
        before = (now or datetime.now(UTC)) - GRACE
        old = [
            entry
            for entry in objects
            if entry.key.rpartition("/")[2] not in named and entry.modified < before
        ]
        await self.bucket.delete([entry.key for entry in old])
        return old

    async def _send(self, path: Path, facts: Mapping[str, Any]) -> None:
        """Write what a file holds, after comparing it with its hash."""
        key = object_key(facts["sha256"])
        content = await asyncio.to_thread(_content, path, facts)
        if facts["bytes"] > self.largest:
            await self.bucket.put_in_parts(key, path)
        # Of two that bring the same at once one is refused, and all is well.
        elif not await self.bucket.create(key, content) and await self.missing({"": facts}):
            await self.bucket.put(key, content)

    def _receive(self, facts: Mapping[str, Any], target: Path, stop: Event) -> bool:
        """Read an object into a file; return whether it is what it should be, and there."""
        digest, size = hashlib.sha256(), 0
        part = target.with_name(target.name + PART)
        enough = Event()
        with part.open("wb", buffering=0) as stream:

            def keep(piece: Any) -> None:
                nonlocal size
                size += len(piece)
                # No more than was announced, whoever wrote what is there.
                if size > facts["bytes"] or stop.is_set():
                    enough.set()
                    return
                digest.update(piece)
                rest = memoryview(piece)
                while rest:
                    rest = rest[stream.write(rest) :]

            self.bucket.read_into(object_key(facts["sha256"]), keep, enough)
        if stop.is_set():
            return False
        if size != facts["bytes"] or digest.hexdigest() != facts["sha256"]:
            part.unlink()
            return False
        part.replace(target)
        return True


def _content(path: Path, facts: Mapping[str, Any]) -> Content:
    """Return a file's content without reading it into memory, once its hash has been compared.

    Raises:
        IntegrityError: it is not what the manifest says.
    """
    try:
        with path.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            if size == facts["bytes"] == 0:  # which cannot be mapped
                return b""
            if size == facts["bytes"]:
                mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
                if hashlib.sha256(mapped).hexdigest() == facts["sha256"]:
                    return mapped
    except FileNotFoundError:
        raise IntegrityError(f"{path} is missing.") from None
    raise IntegrityError(f"{path} is not what its manifest says.")


def _is_there(path: Path, facts: Mapping[str, Any]) -> bool:
    if not path.is_file() or path.stat().st_size != facts["bytes"]:
        return False
    return sha256_of(path) == str(facts["sha256"])


def _write_last(path: Path, content: bytes) -> None:
    part = path.with_name(path.name + PART)
    with part.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    part.replace(path)
    fsync_directory(path.parent)


async def _all(work: Callable[[str], Awaitable[None]], names: Iterable[str]) -> None:
    """Do the same for all, some at a time; the first failure ends the rest and is raised."""
    # One iterator for all workers: each takes the next name, and none is taken twice.
    waiting = iter(list(names))

    async def some() -> None:
        for name in waiting:
            await work(name)

    await all_of(some() for _ in range(PARALLEL))
