"""A mailbox of which the machine has no key: it is given an address for every object, signed at home."""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.request
import zlib
from http.client import HTTPException
from typing import Any

from blocks.machines.mailbox.agent.box import Box

GRANT = "grant"
"""The object that holds the addresses, its own next one among them."""
FRESH_SECONDS = 30.0  # after which it is read again: addresses end
SOON_SECONDS = 1.0  # the same, when one is missing
KEPT = 3  # grants: each is for some numbers of commands only
ANSWER_SECONDS = 60.0


class BySigned(Box):
    """A bucket of any kind, by HTTP alone: no library and no credentials are needed."""

    errors = (OSError, HTTPException, ValueError, zlib.error)

    def __init__(self, url: str) -> None:
        self._url = url
        self._grants: list[dict[str, Any]] = []
        self._read_at = -FRESH_SECONDS
        self._one_by_one = threading.Lock()

    def get(self, name: str) -> bytes | None:
        """Return an object, or None if there is none, or no address for it yet."""
        url = self._address("get", name)
        return self._sent("GET", url) if url else None

    def put(self, name: str, content: bytes) -> None:
        """Make or replace an object."""
        url = self._address("put", name)
        if url is None:
            raise OSError(f"there is no address for {name} yet")
        self._sent("PUT", url, content)

    def remove(self, name: str) -> None:
        """Leave it to those at home, who know when it is not needed any more."""

    def _address(self, method: str, name: str) -> str | None:
        with self._one_by_one:
            age = time.monotonic() - self._read_at
            if age > FRESH_SECONDS or (age > SOON_SECONDS and not self._known(method, name)):
                self._read()
            return self._known(method, name)

    def _known(self, method: str, name: str) -> str | None:
        return next((g[method][name] for g in self._grants if name in g[method]), None)

    def _read(self) -> None:
        content = self._sent("GET", self._url)
        if content is None:
            raise OSError("the grant is gone")
        grant = json.loads(zlib.decompress(content))
        if grant not in self._grants:
            self._grants = [grant, *self._grants][:KEPT]
        self._url = grant["get"][GRANT]
        self._read_at = time.monotonic()

    def _sent(self, method: str, url: str, content: bytes | None = None) -> bytes | None:
        headers = self._grants[0]["headers"] if content is not None else {}
        request = urllib.request.Request(url, content, headers, method=method)  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as answer:  # noqa: S310
                return bytes(answer.read())
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 404 and method == "GET":
                return None
            self._read_at = -FRESH_SECONDS  # an address may have come to its end
            # Without the address: this is printed, and the address is a key.
            raise OSError(f"{method} is answered with HTTP {error.code}") from None
