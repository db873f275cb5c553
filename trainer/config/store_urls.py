"""Addresses in object stores: which kind of store, which bucket, what in it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

KINDS = {
    "file": "a folder",
    "s3": "S3 or what speaks it",
    "gs": "Google Cloud Storage",
    "az": "Azure Blob Storage",
    "block": "a saved block",
}
"""What each scheme stands for."""
REMOTE = tuple(scheme for scheme in KINDS if scheme != "file")
HOW = (
    "Write it as s3://BUCKET/PATH, gs://BUCKET/PATH, az://CONTAINER/PATH, block://NAME/PATH for a "
    "saved block, or as a folder"
)
_BUCKETS = {
    # https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html, and the old ones,
    # which had capitals and underscores.
    "s3": re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]"),
    "gs": re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]"),
    # https://learn.microsoft.com/rest/api/storageservices/naming-and-referencing-containers
    "az": re.compile(r"\$root|\$web|(?!.*--)[a-z0-9][a-z0-9-]{1,61}[a-z0-9]"),
    "block": re.compile(r"[a-z0-9-]+"),
}


@dataclass(frozen=True, slots=True)
class StoreUrl:
    """Where something lies in an object store."""

    scheme: str
    """One of `KINDS`."""
    bucket: str
    """Empty for a folder."""
    path: str
    """Within the bucket, without slashes at its ends; absolute for a folder."""

    def __str__(self) -> str:
        if self.scheme == "file":
            return f"file://{self.path}"
        return f"{self.scheme}://{self.bucket}" + (f"/{self.path}" if self.path else "")

    def inside(self, *names: str) -> StoreUrl:
        """Return the address of something within this one."""
        parts = [part for part in (self.path, *names) if part]
        return StoreUrl(self.scheme, self.bucket, "/".join(parts))


def is_store_url(text: str) -> bool:
    """Whether a value is the address of something in an object store, and no plain path."""
    return text.partition("://")[0] in REMOTE and "://" in text


def parse_store_url(text: str) -> StoreUrl:
    """Return what the value of a `store:` or a `path:` names; a path without a scheme is a folder.

    Raises:
        ValueError: it cannot be one; the sentence says why, and how to write it.
    """
    scheme, mark, rest = text.partition("://")
    if not mark:
        return StoreUrl("file", "", str(Path(text).expanduser().absolute()))
    if scheme not in KINDS:
        raise ValueError(f"{text!r}: {scheme}:// is no kind of store. {HOW}")
    if scheme == "file":
        # With two slashes it would name a host: file://data/x.
        if not rest.startswith("/"):
            raise ValueError(f"{text!r}: has too few slashes. Write it as file:///{rest}")
        return StoreUrl(scheme, "", unquote(urlsplit(text).path).rstrip("/") or "/")
    bucket, _, path = rest.partition("/")
    if not _BUCKETS[scheme].fullmatch(bucket):
        what = {"az": "container", "block": "block"}.get(scheme, "bucket")
        raise ValueError(f"{text!r}: {bucket!r} cannot be the name of a {what}. {HOW}")
    path = path.strip("/")
    parts = PurePosixPath(path).parts
    # Stores take such names, but no two of them, and no file system, agree on what they mean.
    odd = "//" in path or not path.isprintable() or "\\" in path or {".", ".."} & set(parts)
    if path and (odd or "?" in path or "#" in path):
        raise ValueError(f"{text!r}: {path!r} cannot be a path in a store. {HOW}")
    return StoreUrl(scheme, bucket, path)
