"""Locks hold between processes, on a disk that takes nothing more, too."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from flows.locks import briefly_locked, is_held, locked
from trainer.contract.errors import ConfigError
from trainer.contract.job_directory import JobDirectory


@pytest.fixture
def disk(tmp_path):
    """A small disk; calling `fill` with `inodes` or `read-only` lets it take nothing more."""
    if os.geteuid() != 0:
        pytest.skip("needs root: it mounts a small disk")
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "nr_inodes=20", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def fill(folder: Path, how: str) -> None:
    if how == "read-only":
        subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
        return
    with suppress(OSError):
        for number in range(100):
            (folder / str(number)).touch()
    with pytest.raises(OSError, match="No space left"):
        (folder / "one more").touch()


@pytest.mark.parametrize("how", ["inodes", "read-only"])
@pytest.mark.parametrize("is_there", [True, False])
async def test_a_lock_is_held_on_a_disk_that_takes_no_file(disk, how, is_there):
    path = disk / "lock"
    if is_there:
        path.touch()
    fill(disk, how)

    async with locked(path) as alone:
        assert alone
        assert is_held(path)
        async with locked(path, wait=False) as second:
            assert not second
        async with locked(disk / "another", wait=False) as other:
            assert other  # of the same folder, and yet another lock
    assert not is_held(path)
    with briefly_locked(path):
        assert is_held(path)


async def test_a_file_system_that_keeps_no_locks_is_named(tmp_path, monkeypatch):
    """As NFS without its lock service, which no test can mount."""

    def refused(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refused)

    with pytest.raises(ConfigError, match="this file system keeps no locks"):
        async with locked(tmp_path / "lock"):
            pass
    with (
        pytest.raises(ConfigError, match=f"{tmp_path}: this file system keeps no locks"),
        JobDirectory(tmp_path).owned(),
    ):
        pass
