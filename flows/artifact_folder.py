"""Where a result may go. Nothing here imports Prefect, which costs two seconds."""

from __future__ import annotations

import tempfile
from pathlib import Path

from trainer.contract.errors import ConfigError
from trainer.contract.manifest import MANIFEST


def check_artifact_folder(folder: Path) -> None:
    """Refuse a place for the result that cannot be written, or that holds something else.

    Raises:
        ConfigError: naming the folder.
    """
    if folder.exists() and not _is_ours(folder):
        raise ConfigError(
            f"output_dir = {folder}: it already exists and does not hold an artifact.",
            "Name a folder that does not exist yet, or an empty one.",
        )
    try:
        # Tried, not asked: permission bits say nothing about quotas or read-only file systems.
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder.parent):
            pass
    except OSError as error:
        raise ConfigError(
            f"output_dir = {folder}: {folder.parent} cannot be written: {error.strerror}.",
            "Choose another output_dir.",
        ) from error


def _is_ours(folder: Path) -> bool:
    return folder.is_dir() and ((folder / MANIFEST).is_file() or not any(folder.iterdir()))
