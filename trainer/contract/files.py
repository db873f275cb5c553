"""Writing files so that a reader sees the old one or the new one, never a half. Stdlib only."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import threading
from pathlib import Path
from typing import Any

CHUNK = 1 << 20  # bytes; one read of a file that is hashed or copied
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})
"""The errno of a disk that takes nothing more."""
NOT_JSON = (ValueError, RecursionError)
"""What reading JSON raises: at ten thousand brackets it is no ValueError."""


def fsync_directory(folder: Path) -> None:
    """Make a rename inside `folder` survive a power cut (POSIX: the folder is synced itself)."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_text(path: Path, text: str, *, durable: bool = True) -> None:
    """Replace `path` by `text` in one step; `durable` waits until it is on the disk."""
    # In the same folder, since rename(2) cannot cross file systems; by process and thread, so that
    # two writers do not fill one file.
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_native_id()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as stream:
            stream.write(text)
            if durable:
                stream.flush()
                # Before the rename: ext4 and XFS may otherwise order the rename before the data,
                # and leave an empty file after a power cut.
                os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)  # on a full disk even a half-written file is too much
        raise
    if durable:
        fsync_directory(path.parent)


def replace_json(path: Path, value: Any, *, durable: bool = True) -> None:
    """Replace `path` by `value` as JSON in one step."""
    replace_text(path, json.dumps(value, indent=1) + "\n", durable=durable)


def append_line(log: Path, line: str) -> None:
    """Append a line of our own to a log; it begins at the left even after a torn one."""
    with log.open("ab+") as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, size - 1))
        # A killed writer, or a full disk, leaves half a line; ours must not become the rest of it.
        torn = stream.read(1) not in {b"", b"\n"}
        # One write to a file opened for appending, so that lines of several processes do not mix.
        stream.write(("\n" if torn else "").encode() + line.encode(errors="replace") + b"\n")


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the JSON object in `path`, or None when it cannot be read."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, *NOT_JSON):
        return None
    return value if isinstance(value, dict) else None


def link_or_copy(source: str, target: str) -> None:
    """Give a file a second name, or copy it where that cannot be; a link becomes what it leads to."""
    try:
        # realpath: link(2) on Linux would give the symbolic link itself a second name.
        os.link(os.path.realpath(source), target)
    except OSError:
        shutil.copy2(source, target)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file as 64 lower-case hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
