"""A disk that is full delays what is written, and loses nothing of it."""

from __future__ import annotations

import json
import os
import subprocess

import pytest

from flows.full_disk import save_again, save_anyway, unsaved

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it mounts a small disk")


@pytest.fixture
def disk(tmp_path):
    """Give a full disk with a file of a few bytes on it."""
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], check=True)
    (folder / "record.json").write_text('{"old": true}')
    with (folder / "filler").open("wb", buffering=0) as filler:
        try:
            while filler.write(bytes(4096)):
                pass
        except OSError:
            pass
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_record_is_written_over_within_the_room_that_it_has(disk):
    save_anyway(disk / "record.json", {"new": 1})

    assert json.loads((disk / "record.json").read_text()) == {"new": 1}
    assert unsaved(disk / "record.json") is None


def test_a_record_that_needs_more_room_is_kept_and_written_when_there_is_some(disk):
    record = {"long": "x" * 5000}

    save_anyway(disk / "record.json", record)
    assert json.loads((disk / "record.json").read_text()) == {"old": True}
    assert unsaved(disk / "record.json") == record

    (disk / "filler").unlink()
    save_again()
    assert json.loads((disk / "record.json").read_text()) == record
    assert unsaved(disk / "record.json") is None
