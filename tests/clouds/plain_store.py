"""What the local Google Cloud Storage and Azure Blob have in common: objects in memory."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from email.utils import format_datetime
from itertools import count
from urllib.parse import quote
from xml.sax.saxutils import escape

from tests.clouds.store_wire import Asked, LocalStoreServer, Said


class Kept:
    """An object."""

    generations = count(1)

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.modified = datetime.now(UTC)
        self.generation = next(self.generations)
        self.etag = f'"{hashlib.md5(content).hexdigest()}-{self.generation}"'  # noqa: S324


class PlainStoreServer(LocalStoreServer):
    """One bucket; a kind of store adds who may, and how errors and lists are written."""

    def __init__(self, bucket: str = "models", port: int = 0) -> None:
        super().__init__(port)
        self.bucket = bucket
        self.kept: dict[str, Kept] = {}
        self.denied: set[str] = set()
        """Methods that the key may not use."""
        self.now = lambda: datetime.now(UTC)

    def names(self) -> list[str]:
        """Return the keys of all objects, sorted."""
        return sorted(self.kept)

    def content(self, key: str) -> bytes | None:
        """Return what an object holds."""
        return self.kept[key].content if key in self.kept else None

    def flip(self, key: str) -> None:
        """Damage an object in its middle, as no store should."""
        content = bytearray(self.kept[key].content)
        content[len(content) // 2] ^= 1
        self.kept[key].content = bytes(content)

    def read(self, asked: Asked, kept: Kept) -> Said:
        """Answer GET or HEAD of an object."""
        headers = {
            "ETag": kept.etag,
            "Last-Modified": format_datetime(kept.modified, usegmt=True),
            "x-goog-generation": str(kept.generation),
            "Content-Type": "application/octet-stream",
        }
        wanted = asked.headers.get("range", "")
        if not wanted:
            return Said(200, kept.content, {**headers, "Content-Length": str(len(kept.content))})
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        end = min(int(last or len(kept.content)), len(kept.content) - 1)
        headers["Content-Range"] = f"bytes {first}-{end}/{len(kept.content)}"
        return Said(206, kept.content[int(first) : end + 1], headers)

    def listed(self, asked: Asked, marker: str, size: int) -> tuple[list[str], list[str], str]:
        """Return the keys and the common prefixes of a page, and where the next one begins."""
        query = asked.query
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        keys: list[str] = []
        prefixes: set[str] = set()
        for key in self.names():
            if not key.startswith(prefix) or key <= marker:
                continue
            if delimiter and delimiter in key[len(prefix) :]:
                prefixes.add(prefix + key[len(prefix) :].partition(delimiter)[0] + delimiter)
            elif len(keys) == size:
                return keys, sorted(prefixes), keys[-1]
            else:
                keys.append(key)
        return keys, sorted(prefixes), ""

    def condition_holds(self, asked: Asked, kept: Kept | None) -> bool:
        """Whether what a write asks for is so."""
        headers = asked.headers
        wanted = headers.get("x-goog-if-generation-match")
        if wanted is not None and int(wanted) != (kept.generation if kept else 0):
            return False
        if headers.get("if-none-match") == "*" and kept:
            return False
        match = headers.get("if-match")
        return match is None or (kept is not None and match == kept.etag)


def quoted(path: str) -> str:
    """Return a path as it stands in a canonical request."""
    return quote(path, safe="/-_.~")


def xml(tag: str, *inner: str) -> str:
    """Return an element with elements in it."""
    return f"<{tag}>{''.join(inner)}</{tag}>"


def text(tag: str, value: object) -> str:
    """Return an element with text in it."""
    return f"<{tag}>{escape(str(value))}</{tag}>"
