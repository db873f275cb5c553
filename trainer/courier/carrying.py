"""One file to or from an object store, by an address that carries the permission.

The hash is computed while a file is read, and compared before the last byte is sent: a store never
comes to hold under a hash what does not have it. Standard library only.
"""

from __future__ import annotations

import hashlib
import http.client
import random
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from trainer.contract.errors import DiskFull, IntegrityError, LinkExpired, StoreAway, StoreError
from trainer.courier.cloud_role import CloudRole

CHUNK = 1 << 20  # bytes
SILENCE_SECONDS = 60.0  # without a byte: the line is dead
PATIENCE_SECONDS = 180.0  # of trouble in all that one file is tried again: home is waiting
LONGEST_PAUSE = 30.0  # seconds between two tries
BUSY = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
PART = ".part"
TROUBLE = (OSError, http.client.HTTPException)
"""What a line may do: refuse, break, fall silent, or bring what is no HTTP."""
Progress = Callable[[int], None]


class Unwanted(Exception):
    """Whoever asked for it does not want it any more."""


def send(
    path: Path,
    facts: Mapping[str, Any],
    url: str,
    headers: Mapping[str, str],
    progress: Progress = lambda size: None,
    role: CloudRole | None = None,
) -> None:
    """Send a file, unless it is not what it should be.

    Args:
        path: of the file.
        facts: its `bytes` and `sha256`.
        url: takes it by PUT.
        headers: that go along.
        progress: called with the bytes of each piece that was sent; it may raise `Unwanted`.
        role: signs the request, where the address itself permits nothing.

    Raises:
        IntegrityError: the file does not have this size and hash; the store does not have it.
        LinkExpired: the address does not permit it, or not any more.
        StoreAway: the store did not take it for three minutes.
        StoreError: the store refuses it.
    """
    given = {**headers, "Content-Length": str(facts["bytes"]), "Content-Type": ""}

    def attempt() -> None:
        signed = given | _signed(role, "PUT", url, facts["sha256"])
        request = urllib.request.Request(  # noqa: S310 - home says where
            url, data=_checked(path, facts, progress), headers=signed, method="PUT"
        )
        with _open(request) as answer:
            answer.read(CHUNK)

    _patiently(attempt)


def receive(
    target: Path,
    facts: Mapping[str, Any],
    url: str,
    progress: Progress = lambda size: None,
    role: CloudRole | None = None,
) -> None:
    """Fetch a file; it is in its place only whole, and with its hash.

    Raises:
        IntegrityError: what arrives is something else, a second time too.
        LinkExpired: the address does not permit it, or not any more.
        StoreAway: the store did not give it for three minutes.
        DiskFull: there is no room for it.
        StoreError: the store refuses it, or does not have it.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    for _ in range(2):
        if _patiently(lambda: _received(target, facts, url, progress, role)):
            return
    raise IntegrityError(f"{target.name} arrived with another SHA-256 than its manifest says.")


def _checked(path: Path, facts: Mapping[str, Any], progress: Progress) -> Iterator[Any]:
    """Yield what a file holds; the last piece only if the whole has its hash."""
    try:
        yield from _pieces(path, facts, progress)
    except OSError as error:  # the trainer may have removed the checkpoint meanwhile
        raise IntegrityError(f"{path} cannot be read: {error.strerror}.") from None


def _pieces(path: Path, facts: Mapping[str, Any], progress: Progress) -> Iterator[Any]:
    digest, size = hashlib.sha256(), 0
    # Two, so that a piece can wait until the one after it has been read.
    buffers = (memoryview(bytearray(CHUNK)), memoryview(bytearray(CHUNK)))
    waiting: memoryview | None = None
    with path.open("rb", buffering=0) as stream:
        for turn in range(1 << 62):
            buffer = buffers[turn % 2]
            count = stream.readinto(buffer) or 0
            if not count:
                break
            size += count
            digest.update(buffer[:count])
            if waiting is not None:
                yield waiting
                progress(len(waiting))
            waiting = buffer[:count]
    if size != facts["bytes"] or digest.hexdigest() != facts["sha256"]:
        raise IntegrityError(f"{path} is not what its manifest says.")
    if waiting is not None:
        yield waiting
        progress(len(waiting))


def _signed(role: CloudRole | None, method: str, url: str, sha256: str) -> dict[str, str]:
    """Return what a role adds to a request.

    Raises:
        StoreError: the machine has none, or nobody hands out its keys.
    """
    try:
        return role.headers(method, url, sha256) if role else {}
    except (*TROUBLE, LookupError, TypeError, ValueError) as error:
        raise StoreError(f"The machine has no role that can be used: {_reason(error)}.") from None


def _received(
    target: Path,
    facts: Mapping[str, Any],
    url: str,
    progress: Progress,
    role: CloudRole | None,
) -> bool:
    digest, size = hashlib.sha256(), 0
    buffer = memoryview(bytearray(CHUNK))
    part = target.with_name(target.name + PART)
    headers = _signed(role, "GET", url, hashlib.sha256(b"").hexdigest())
    with (
        _open(urllib.request.Request(url, headers=headers)) as answer,  # noqa: S310 - home says where
        _opened(part) as stream,
    ):
        while size <= facts["bytes"] and (count := answer.readinto(buffer)):
            size += count
            digest.update(buffer[:count])
            _write(stream, buffer[:count], part)
            progress(count)
    if size < facts["bytes"]:
        raise http.client.IncompleteRead(b"", facts["bytes"] - size)
    if size != facts["bytes"] or digest.hexdigest() != facts["sha256"]:
        part.unlink()
        return False
    part.replace(target)
    return True


def _opened(path: Path) -> Any:
    try:
        return path.open("wb", buffering=0)
    except OSError as error:  # which the store has nothing to do with
        raise DiskFull(f"{path} cannot be written: {error.strerror}.") from None


def _write(stream: Any, rest: memoryview, path: Path) -> None:
    try:
        while rest:
            rest = rest[stream.write(rest) :]
    except OSError as error:
        path.unlink(missing_ok=True)
        raise DiskFull(f"{path} cannot be written: {error.strerror}.") from None


def _open(request: urllib.request.Request) -> Any:
    return urllib.request.urlopen(  # noqa: S310 - home says where
        request, timeout=SILENCE_SECONDS, context=_context()
    )


def _context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    known = ssl.get_default_verify_paths()
    # A Python that was installed by itself may know no authorities; the Hub's client brings some.
    if not known.cafile and not known.capath:
        with suppress(ImportError):
            import certifi

            context.load_verify_locations(certifi.where())
    return context


def _patiently(attempt: Callable[[], Any]) -> Any:
    """Do it again with growing pauses while the store is busy or the line breaks."""
    pause, until = 0.5, time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return attempt()
        except urllib.error.HTTPError as error:
            with error:
                trouble = _refusal(error)
            if not isinstance(trouble, StoreAway):
                raise trouble from None
        except urllib.error.URLError as error:
            if isinstance(error.reason, ssl.SSLCertVerificationError):
                raise StoreError(f"The store cannot be trusted: {_reason(error)}.") from None
            trouble = StoreAway(f"The store cannot be reached: {_reason(error)}.")
        except TROUBLE as error:
            trouble = StoreAway(f"The store cannot be reached: {_reason(error)}.")
        if time.monotonic() + pause > until:
            raise trouble
        time.sleep(pause * random.uniform(0.7, 1.3))  # noqa: S311 - no secret
        pause = min(2 * pause, LONGEST_PAUSE)


def _refusal(error: urllib.error.HTTPError) -> StoreError:
    text = error.read(4096).decode(errors="replace")
    code = text.partition("<Code>")[2].partition("</Code>")[0][:80]
    said = f"HTTP {error.code}{f' {code}' if code.isprintable() and code else ''}"
    if error.code in BUSY:
        return StoreAway(f"The store is busy: {said}.")
    if error.code in {401, 403} or code == "ExpiredToken":
        return LinkExpired(f"The store does not permit it: {said}.")
    return StoreError(f"The store refuses it: {said}.")


def _reason(error: BaseException) -> str:
    # Never the address, which permits whoever has it.
    inner = getattr(error, "reason", None) or error
    return getattr(inner, "strerror", None) or type(inner).__name__
