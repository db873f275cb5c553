"""A bucket, or a part of one: objects by their keys, read and written whole.

Every call ends: what has not answered after a time that its size allows raises `StoreAway`. What a
store refuses becomes a `StoreError` that names the store, the right and the remedy.
"""

from __future__ import annotations

import asyncio
import mmap
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any, Literal, cast

from blocks.stores.access import Access, make_store
from blocks.stores.trouble import Right, explained
from trainer.config.store_urls import StoreUrl
from trainer.contract.errors import StoreAway, StoreError

if TYPE_CHECKING:
    from obstore.store import ObjectStore

Content = bytes | memoryview | mmap.mmap
"""A mapped file is not copied into memory; it must not shrink meanwhile, which would end us."""
SMALL_SECONDS = 60.0  # for a call that moves little
SLOWEST = 256 << 10  # bytes per second; what is slower than this is as good as away
PIECE = 256 << 10  # bytes of a long read at once
PART_BYTES = 64 << 20  # of an upload in parts: ten thousand are allowed
PARTS = 4  # on their way at once
SIGNING = frozenset({"s3", "gs", "az"})
LONGEST_LIST = 1000  # entries in one answer of a store


@dataclass(frozen=True, slots=True)
class Entry:
    """An object, without what it holds."""

    key: str
    bytes: int
    modified: datetime
    version: str
    """Its ETag: another one after each write, and no hash of the content."""


class Bucket:
    """What lies below one address, such as s3://models/team: keys begin there."""

    def __init__(
        self,
        url: StoreUrl,
        store: ObjectStore,
        reader: ObjectStore | None = None,
        access: Access | None = None,
    ) -> None:
        """Use a store of the library; see `blocks.stores.opening` for one by its address.

        Args:
            url: what it is called in messages.
            store: the library's store, whose prefix is the path of `url`.
            reader: the same for long reads; see `make_store`.
            access: what it was opened with.
        """
        self.url = url
        self._store = store
        self._reader = reader or store
        self.access = access or Access()

    @classmethod
    def at(cls, url: StoreUrl, access: Access | None = None) -> Bucket:
        """Return the bucket at an address; nothing is sent yet.

        Raises:
            DependencyError: a library that it needs is not installed.
            ConfigError: a setting cannot be used.
            StoreError: the folder cannot be made.
        """
        given = access or Access()
        return cls(url, make_store(url, given), make_store(url, given, reads=True), given)

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder of this computer, which no other one can reach by this address."""
        return self.url.scheme == "file"

    @property
    def can_sign(self) -> bool:
        """Whether a kind of store has addresses that carry a permission; see `sign`."""
        return self.url.scheme in SIGNING

    @property
    def put_headers(self) -> dict[str, str]:
        """What has to go along with a PUT to a signed address."""
        return {"x-ms-blob-type": "BlockBlob"} if self.url.scheme == "az" else {}

    async def get(self, key: str) -> bytes:
        """Return what a small object holds.

        Raises:
            FileNotFoundError: there is none.
            StoreError: it cannot be read.
        """
        return (await self.get_version(key))[0]

    async def get_version(self, key: str) -> tuple[bytes, str]:
        """Return what a small object holds, and the version for `replace`; see `get`."""
        async with self._trouble(Right.READ, key):
            found = await self._store.get_async(key)
            return bytes(await found.bytes_async()), found.meta["e_tag"] or ""

    def read_into(self, key: str, take: Callable[[Any], None], stop: Event) -> None:
        """Give an object's content to `take`, piece by piece; for a thread.

        Args:
            key: of the object.
            take: gets pieces that have the buffer protocol.
            stop: ends it early when it is set.

        Raises:
            FileNotFoundError: there is none.
            StoreError: it cannot be read, or nothing has come for a minute.
        """
        with self._explained(Right.READ, key):
            pieces = iter(self._reader.get(key).stream(min_chunk_size=PIECE))
        while not stop.is_set():
            with self._explained(Right.READ, key):
                piece = next(pieces, None)
            if piece is None:
                return
            take(piece)

    async def head(self, key: str) -> Entry | None:
        """Return what is known of an object, or None if there is none.

        Raises:
            StoreError: it cannot be looked at.
        """
        try:
            async with self._trouble(Right.READ, key):
                return _entry(await self._store.head_async(key))
        except FileNotFoundError:
            return None

    async def put(self, key: str, content: Content) -> None:
        """Write an object, whether or not there is one: a reader sees the old one or the new one.

        Raises:
            StoreError: it cannot be written.
        """
        async with self._trouble(Right.WRITE, key, size=memoryview(content).nbytes):
            await self._store.put_async(key, content, use_multipart=False)

    async def put_in_parts(self, key: str, path: Path) -> None:
        """Write a file that is too large for one request.

        Whoever dies meanwhile leaves parts behind, which the store bills until a rule removes them.

        Raises:
            StoreError: it cannot be written.
        """
        size = path.stat().st_size  # noqa: ASYNC240 - a moment
        async with self._trouble(Right.WRITE, key, size=size):
            await self._store.put_async(
                key, path, use_multipart=True, chunk_size=PART_BYTES, max_concurrency=PARTS
            )

    async def create(self, key: str, content: Content) -> bool:
        """Write an object unless there is one; return whether it was written.

        Of several that try at once, one succeeds. It is sent in one piece, whose content may be a
        mapped file: it is not copied into memory.

        Raises:
            StoreError: it cannot be written.
        """
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        size = memoryview(content).nbytes
        try:
            async with self._trouble(Right.WRITE, key, size=size):
                await self._store.put_async(key, content, mode="create", use_multipart=False)
        # Google answers 412 here; so may S3 to a second one that is under way.
        except (AlreadyExistsError, PreconditionError):
            return False
        return True

    async def replace(self, key: str, content: Content, version: str) -> bool:
        """Write an object if it still is of this version; return whether it was written.

        Raises:
            StoreError: it cannot be written, or this is a folder, which knows no versions.
        """
        from obstore.exceptions import PreconditionError

        size = memoryview(content).nbytes
        try:
            async with self._trouble(Right.WRITE, key, size=size):
                # A version of None would be a TypeError, so there is none.
                await self._store.put_async(key, content, mode={"e_tag": version})
        except (PreconditionError, FileNotFoundError):
            return False
        return True

    async def delete(self, keys: Sequence[str]) -> None:
        """Remove objects; one that is not there is no error.

        Raises:
            StoreError: one cannot be removed.
        """
        if keys:
            async with self._trouble(Right.DELETE, keys[0], patience=10.0):
                try:
                    await self._store.delete_async(list(keys))
                except FileNotFoundError:  # of a folder
                    for key in keys:
                        await self._delete_one(key)

    async def entries(self, prefix: str = "") -> list[Entry]:
        """Return every object whose key begins with the parts of `prefix`, sorted by key.

        Raises:
            StoreError: it cannot be listed.
        """
        found: list[Entry] = []
        async with self._trouble(Right.LIST):
            pages = self._store.list(prefix or None, chunk_size=LONGEST_LIST)
        while True:
            async with self._trouble(Right.LIST):
                page = await _next(pages)
            if page is None:
                return sorted(found, key=lambda entry: entry.key)
            found += map(_entry, page)

    async def folders(self, prefix: str = "") -> list[str]:
        """Return the names that follow a prefix up to the next slash, sorted.

        Raises:
            StoreError: it cannot be listed.
        """
        async with self._trouble(Right.LIST):
            found = await self._store.list_with_delimiter_async(prefix or None)
        return sorted(path.rstrip("/").rpartition("/")[2] for path in found["common_prefixes"])

    async def sign(
        self, method: Literal["GET", "PUT"], keys: Sequence[str], seconds: float
    ) -> list[str]:
        """Return, for each key, an address that permits one method for so long, to whoever has it.

        Args:
            method: what it permits.
            keys: of the objects.
            seconds: for how long; stores allow seven days at most.

        Raises:
            StoreError: the credentials in use cannot sign, as those of a login at Google.
        """
        from obstore import sign_async
        from obstore.exceptions import BaseError

        if not self.can_sign:
            raise StoreError(f"{self.url} is a folder, and has no signed addresses.")
        try:
            async with asyncio.timeout(SMALL_SECONDS):
                lasting = timedelta(seconds=seconds)
                signed = await sign_async(cast("Any", self._store), method, list(keys), lasting)
        except (BaseError, ValueError, TimeoutError) as error:
            raise explained(error, self.url, Right.WRITE, "by signed addresses") from None
        return list(signed)

    async def _delete_one(self, key: str) -> None:
        try:
            await self._store.delete_async(key)
        except FileNotFoundError:
            return

    @asynccontextmanager
    async def _trouble(
        self, right: Right, key: str = "", *, size: int = 0, patience: float = 1.0
    ) -> AsyncIterator[None]:
        """Limit a call in time, and turn what the library raises into errors of ours."""
        seconds = SMALL_SECONDS * patience + size / SLOWEST
        with self._explained(right, key, seconds):
            async with asyncio.timeout(seconds):
                yield

    @contextmanager
    def _explained(self, right: Right, key: str, seconds: float = 0.0) -> Iterator[None]:
        from obstore import exceptions

        try:
            yield
        except (exceptions.AlreadyExistsError, exceptions.PreconditionError):
            raise
        except FileNotFoundError as error:
            # Only with a body does an answer say that it is the bucket that is missing.
            if "NoSuchBucket" in str(error) or "ContainerNotFound" in str(error):
                raise explained(error, self.url, right, key) from None
            raise FileNotFoundError(f"{self.url} has no {key}") from None
        except TimeoutError:
            raise StoreAway(
                f"{self.url}: no answer within {seconds:.0f} s ({right} {key})."
            ) from None
        except (exceptions.BaseError, OSError, ValueError) as error:
            raise explained(error, self.url, right, key) from None


def _entry(meta: Any) -> Entry:
    return Entry(meta["path"], meta["size"], meta["last_modified"], meta["e_tag"] or "")


async def _next(pages: Any) -> Any:
    """Return the next page of a listing, or None at its end."""
    try:
        return await anext(pages)
    except StopAsyncIteration:
        return None
