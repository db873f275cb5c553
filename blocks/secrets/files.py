"""Secrets in files that nobody else may read."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from trainer.contract.errors import ConfigError

MOST_BYTES = 1 << 16
OTHERS, ALL_BUT_OWNER = 0o007, 0o077


def content_of(path: Path, name: str) -> str:
    """Return what a file holds, without line breaks at its ends.

    Args:
        path: the file.
        name: how errors call the secret.

    Raises:
        ConfigError: it is not there, or not text; or others than its owner may read it.
    """
    try:
        with path.open("rb") as stream:
            facts = os.fstat(stream.fileno())
            _refuse_open(path, name, facts)
            content = stream.read(MOST_BYTES + 1)
    except OSError as error:
        raise ConfigError(
            f"{name} = {path}: cannot be read: {error.strerror}.",
            "Put the secret there, or name another file.",
        ) from None
    try:
        text = content.decode("utf-8").strip()
    except UnicodeDecodeError:
        text = ""
    if not text or len(content) > MOST_BYTES:
        raise ConfigError(
            f"{name} = {path}: holds no secret: it is empty, no text, or over {MOST_BYTES} bytes.",
            "Put the secret there, alone.",
        )
    return text


def _refuse_open(path: Path, name: str, facts: os.stat_result) -> None:
    """Refuse a file that others may read; the group may where it is how we read it ourselves."""
    # Kubernetes mounts secrets as root's, for the group of the pod (fsGroup).
    ours = facts.st_uid == os.geteuid()
    mode = stat.S_IMODE(facts.st_mode)
    if stat.S_ISREG(facts.st_mode) and mode & (ALL_BUT_OWNER if ours else OTHERS):
        raise ConfigError(
            f"{name} = {path}: may be read by others (its mode is {mode:04o}).",
            f"chmod 600 {path}; of a secret that Kubernetes mounts, set defaultMode: 0400.",
        )
