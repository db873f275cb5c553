"""S3 on loopback for what only reads and writes small objects: without moto, which is slow."""

from __future__ import annotations

import hashlib
import time
from datetime import UTC, datetime
from email.utils import formatdate
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from tests.clouds.s3 import S3Server
from tests.clouds.store_wire import Asked, LocalStoreServer, Said


class PlainS3(S3Server):
    """One bucket, kept in a dictionary; signatures and checksums are checked as in `S3Server`."""

    def __init__(self, bucket: str, port: int = 0) -> None:
        LocalStoreServer.__init__(self, port)
        self.bucket = bucket
        self.denied: set[str] = set()
        self.now = lambda: datetime.now(UTC)
        self.objects: dict[str, tuple[bytes, float]] = {}
        """Content and time of change by key."""

    def answer(self, asked: Asked) -> Said:
        """Do what was asked; what is sent is not kept in a log, because there is much of it."""
        self.asked.clear()
        if refusal := self._refusal(asked):
            return refusal
        bucket, _, key = asked.path.lstrip("/").partition("/")
        if bucket != self.bucket:
            return self.refused(404, "NoSuchBucket", "The specified bucket does not exist")
        if asked.method == "POST" and "delete" in asked.query:
            return self._delete_all(asked.body)
        if asked.method == "DELETE":
            self.objects.pop(key, None)
            return Said(204)
        if asked.method == "PUT":
            return self._put(key, asked)
        return self._get(key, asked) if key else self._list(asked.query)

    def keys(self) -> list[str]:
        """Return the keys of all objects, sorted."""
        return sorted(self.objects)

    def content(self, key: str) -> bytes | None:
        """Return what an object holds."""
        return self.objects[key][0] if key in self.objects else None

    def _put(self, key: str, asked: Asked) -> Said:
        if asked.headers.get("if-none-match") == "*" and key in self.objects:
            return self.refused(412, "PreconditionFailed")
        self.objects[key] = asked.body, time.time()
        return Said(200, b"", {"ETag": _tag(asked.body)})

    def _get(self, key: str, asked: Asked) -> Said:
        if key not in self.objects:
            return self.refused(404, "NoSuchKey", "The specified key does not exist.")
        content, changed = self.objects[key]
        headers = {
            "ETag": _tag(content),
            "Last-Modified": formatdate(changed, usegmt=True),
            "Content-Length": str(len(content)),
        }
        return Said(200, b"" if asked.method == "HEAD" else content, headers)

    def _delete_all(self, body: bytes) -> Said:
        removed = ""
        for node in ElementTree.fromstring(body).iter():  # noqa: S314 - of our own caller
            if node.tag.rpartition("}")[2] == "Key":
                self.objects.pop(node.text or "", None)
                removed += f"<Deleted><Key>{escape(node.text or '')}</Key></Deleted>"
        text = f"<DeleteResult>{removed}</DeleteResult>"
        return Said(200, text.encode(), {"Content-Type": "application/xml"})

    def _list(self, query: dict[str, str]) -> Said:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        rows, folders = "", set()
        for key in self.keys():
            if not key.startswith(prefix):
                continue
            rest = key[len(prefix) :]
            if delimiter and delimiter in rest:
                folders.add(prefix + rest.partition(delimiter)[0] + delimiter)
                continue
            content, changed = self.objects[key]
            at = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(changed))
            rows += (
                f"<Contents><Key>{escape(key)}</Key><LastModified>{at}</LastModified>"
                f"<ETag>{escape(_tag(content))}</ETag><Size>{len(content)}</Size></Contents>"
            )
        common = "".join(
            f"<CommonPrefixes><Prefix>{escape(one)}</Prefix></CommonPrefixes>"
            for one in sorted(folders)
        )
        text = (
            f"<ListBucketResult><Name>{self.bucket}</Name><IsTruncated>false</IsTruncated>"
            f"{rows}{common}</ListBucketResult>"
        )
        return Said(200, text.encode(), {"Content-Type": "application/xml"})


def _tag(content: bytes) -> str:
    return f'"{hashlib.md5(content, usedforsecurity=False).hexdigest()}"'
