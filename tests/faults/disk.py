"""A small disk at a folder, and filling it up."""

from __future__ import annotations

import subprocess
from contextlib import suppress
from pathlib import Path


def mount(folder: Path, size: str, *, again: bool = False) -> None:
    """Mount a small disk at a folder, or change its size.

    Raises:
        subprocess.CalledProcessError: this user, or this container, may not mount anything.
    """
    folder.mkdir(parents=True, exist_ok=True)
    options = f"{'remount,' if again else ''}size={size},mode=0700"
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder]
    subprocess.run(command, check=True, capture_output=True)


def unmount(folder: Path) -> None:
    """Take the disk away, whoever still has a file of it open."""
    subprocess.run(["umount", "-l", folder], check=True)


def fill(disk: Path) -> Path:
    """Leave no room on a small disk; return the file whose removal makes room."""
    filler = disk / "filler"
    with filler.open("ab", buffering=0) as stream:
        for size in (1 << 20, 1 << 12, 1):
            with suppress(OSError):
                while stream.write(bytes(size)):
                    pass
    return filler
