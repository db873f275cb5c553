"""A mailbox that the machine's own role opens: S3, Google Cloud Storage or Azure Blob, by HTTP alone."""

from __future__ import annotations

import hashlib
import urllib.error
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException
from typing import Any

from blocks.machines.mailbox.agent.box import Box
from trainer.courier.cloud_role import CloudRole

ANSWER_SECONDS = 60.0
GONE = 404


class ByRole(Box):
    """A bucket of the cloud that the machine is in."""

    errors = (OSError, HTTPException, LookupError, TypeError, ValueError)

    def __init__(self, url: str, options: Mapping[str, Any]) -> None:
        scheme, _, rest = url.partition("://")
        self._bucket, _, self._prefix = rest.partition("/")
        self._role = CloudRole(scheme, options)

    def get(self, name: str) -> bytes | None:
        """Return an object, or None if there is none."""
        return self._sent("GET", name)

    def put(self, name: str, content: bytes) -> None:
        """Make or replace an object."""
        self._sent("PUT", name, content)

    def remove(self, name: str) -> None:
        """Remove an object, if it is there."""
        self._sent("DELETE", name)

    def address(self, name: str) -> str:
        """Return where an object is."""
        return self._role.address(self._bucket, f"{self._prefix}/{name}")

    def _sent(self, method: str, name: str, content: bytes | None = None) -> bytes | None:
        url, digest = self.address(name), hashlib.sha256(content or b"").hexdigest()
        headers = self._role.headers(method, url, digest)
        request = urllib.request.Request(url, content, headers, method=method)  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as answer:  # noqa: S310
                return bytes(answer.read())
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == GONE and method != "PUT":
                return None
            self._role.forget()  # its keys may have been replaced
            raise OSError(f"{method} {name} is answered with HTTP {error.code}") from None
