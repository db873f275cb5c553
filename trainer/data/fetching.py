"""Files at an address of the web, fetched once and known by their SHA-256."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from trainer.contract.errors import DataError
from trainer.contract.files import sha256_of

SECONDS = 60.0  # without a byte, until a try is given up
TRIES = 3
PIECE = 1 << 20  # bytes


def is_address(path: str) -> bool:
    """Whether a path is an address of the web."""
    return path.startswith(("https://", "http://"))


def fetched(address: str, sha256: str, field: str) -> Path:
    """Return the file at an address, from where an earlier fetch has left it if there is one.

    Args:
        address: https://… or http://…
        sha256: of the file, in hexadecimal.
        field: of the dataset's settings, which names it.

    Raises:
        DataError: it cannot be fetched, or is another file.
    """
    # The name at the end of the address says how to read the file.
    name = PurePosixPath(unquote(urlsplit(address).path)).name or "data"
    there = _folder() / sha256 / name
    if there.is_file() and sha256_of(there) == sha256:
        return there
    there.parent.mkdir(parents=True, exist_ok=True)
    # By process: another job may fetch the same file.
    arriving = there.with_name(f".{name}.{os.getpid()}")
    try:
        found = _download(address, arriving, field)
        if found != sha256:
            raise DataError(
                f"dataset.{field} = {address!r}: the file there has the SHA-256 {found}, and not "
                f"{sha256}.",
                "It is another file than was meant, or has changed: look at it, then correct the "
                "checksum.",
            )
        arriving.replace(there)
    finally:
        arriving.unlink(missing_ok=True)
    return there


def _folder() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "training-orchestrator" / "downloads"


def _download(address: str, target: Path, field: str) -> str:
    """Write what is at an address into a file; return its SHA-256."""
    import httpx  # here: most jobs need none of it

    for left in reversed(range(TRIES)):
        digest = hashlib.sha256()
        try:
            with (
                httpx.stream("GET", address, follow_redirects=True, timeout=SECONDS) as answer,
                target.open("wb") as stream,
            ):
                answer.raise_for_status()
                for piece in answer.iter_bytes(PIECE):
                    digest.update(piece)
                    stream.write(piece)
            return digest.hexdigest()
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            refused = isinstance(error, httpx.HTTPStatusError) and error.response.is_client_error
            if refused or not left or isinstance(error, httpx.InvalidURL):
                reason = str(error).partition("\n")[0] or type(error).__name__
                raise DataError(
                    f"dataset.{field} = {address!r} cannot be fetched: {reason}.",
                    "Correct the address, or fetch the file and name it here.",
                ) from error
            time.sleep(TRIES - left)
    raise AssertionError("unreachable")
