"""What this computer's disk does not take: it is kept in mind, said once, and written later."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from flows.logger import logger
from trainer.contract.errors import HomeDiskFull, StoreAway
from trainer.contract.files import replace_json

_BLOCK = 512  # bytes, in which stat counts the room of a file whatever its file system's blocks
_unsaved: dict[Path, dict[str, Any]] = {}
_said: dict[str, float] = {}
SAID_FOR = 3600.0  # seconds, after which the same trouble is reported once more


def say_once(error: OSError | HomeDiskFull | StoreAway, then: str) -> None:
    """Report trouble of this computer, each kind once an hour."""
    words = f"{type(error).__name__}: {getattr(error, 'strerror', None) or error}"
    now = time.monotonic()
    if now - _said.get(words, -SAID_FOR) >= SAID_FOR:
        _said[words] = now
        logger().error("trouble on this computer (%s): %s", words, then)


def save_anyway(path: Path, record: dict[str, Any]) -> None:
    """Replace a file by a JSON object, on a full disk too where that is possible; else later."""
    try:
        try:
            replace_json(path, record)
        except OSError as error:
            if not _overwritten(path, record):
                raise error from None
    except OSError as error:
        say_once(error, f"{path.name} is kept in memory, and written later")
        _unsaved[path] = record
    else:
        _unsaved.pop(path, None)


def save_again() -> None:
    """Write what could not be written before; called now and then."""
    for path, record in list(_unsaved.items()):
        save_anyway(path, record)


def unsaved(path: Path) -> dict[str, Any] | None:
    """Return what a file should hold and does not yet; None when it is up to date."""
    return _unsaved.get(path)


def _overwritten(path: Path, record: dict[str, Any]) -> bool:
    """Write over a file within the room that it has, which takes no more of a full disk."""
    content = json.dumps(record).encode()
    try:
        with path.open("r+b", buffering=0) as stream:
            if len(content) > os.fstat(stream.fileno()).st_blocks * _BLOCK:
                return False  # only half of it would be written
            # One call: a process that is killed leaves the old content or the new one.
            os.pwrite(stream.fileno(), content.ljust(stream.seek(0, os.SEEK_END)), 0)
            stream.truncate(len(content))
            os.fsync(stream.fileno())
    except OSError:
        return False
    return True
