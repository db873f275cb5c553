"""Whether messages wait to be sent: a look at files, for processes that import little."""

from __future__ import annotations

from pathlib import Path

from blocks.home import home

FOLDER = "notifications"
EVENTS = "waiting/[!.]*.json"
"""Without those that are being written, whose names begin with a dot."""


def folders_with_messages() -> list[Path]:
    """Return the folders of the receivers for whom something waits."""
    folders = sorted((home() / FOLDER).glob("*"))
    return [folder for folder in folders if next(folder.glob(EVENTS), None)]
