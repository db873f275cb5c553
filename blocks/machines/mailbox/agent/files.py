"""Files on the machine: read from a byte on, replaced in one step, put together from parts."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from blocks.machines.mailbox.agent.refused import Refused

Answer = tuple[dict[str, Any], bytes]
LOOK_SECONDS = 0.05  # between two looks at a file that may grow


def size(wanted: Mapping[str, Any]) -> Answer:
    """Return the size of a file."""
    return {"size": _size_of(Path(wanted["path"]))}, b""


def read(wanted: Mapping[str, Any], over: Callable[[], bool]) -> Answer:
    """Return what a file holds from a byte on, after waiting for it to hold more than that.

    Args:
        wanted: its path, `offset` and `length` in bytes, how long to `wait` for more, and how long
            to `linger` once there is more, in seconds.
        over: whether there is no time left to wait.
    """
    path, offset, length = Path(wanted["path"]), wanted["offset"], wanted["length"]
    until = time.monotonic() + wanted["wait"]
    while True:
        try:
            size = _size_of(path)
        except FileNotFoundError:
            if not wanted["wait"]:
                raise
            size = 0
        if size > offset:
            break
        if time.monotonic() >= until or over():
            return {"size": size}, b""
        time.sleep(LOOK_SECONDS)
    # More may come in a moment, and each answer costs the same.
    if wanted["wait"] and size - offset < length:
        time.sleep(wanted["linger"])
    with path.open("rb") as stream:
        stream.seek(offset)
        content = stream.read(length)
        return {"size": os.fstat(stream.fileno()).st_size}, content


def put(wanted: Mapping[str, Any], payload: bytes) -> Answer:
    """Replace a small file in one step."""
    path = Path(wanted["path"])
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name[:200]}.{wanted['id']}.new")
    try:
        fresh.write_bytes(payload)
        _settle(fresh, path)
    finally:
        fresh.unlink(missing_ok=True)
    _part_of(path).unlink(missing_ok=True)  # of something else
    return {"sha256": hashlib.sha256(payload).hexdigest()}, b""


def part(wanted: Mapping[str, Any]) -> Answer:
    """Return how much of a file has come, and how much room there is."""
    path = Path(wanted["path"])
    path.parent.mkdir(parents=True, exist_ok=True)
    with _part_of(path).open("ab") as stream:
        if stream.tell() > wanted["size"]:  # the rest of something else
            stream.truncate(0)
            stream.seek(0)
        return {"size": stream.tell(), "free": shutil.disk_usage(path.parent).free}, b""


def write(wanted: Mapping[str, Any], payload: bytes) -> Answer:
    """Append to what has come of a file."""
    with _part_of(Path(wanted["path"])).open("ab") as stream:
        if stream.tell() != wanted["offset"]:
            raise Refused("gap", f"{stream.tell()} bytes are there, not {wanted['offset']}")
        stream.write(payload)
    return {}, b""


def finish(wanted: Mapping[str, Any]) -> Answer:
    """Put a file that has come at its place, synced to disk."""
    path = Path(wanted["path"])
    digest, count = hashlib.sha256(), 0
    with _part_of(path).open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
            count += len(chunk)
    _settle(_part_of(path), path)
    return {"size": count, "sha256": digest.hexdigest()}, b""


def _part_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.part")


def _settle(fresh: Path, path: Path) -> None:
    """Put a file at its place: content, then name, then folder."""
    _sync(fresh)
    fresh.replace(path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _size_of(path: Path) -> int:
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):  # a device might never end
        raise Refused("refused", f"{path} is not a plain file")
    return found.st_size
