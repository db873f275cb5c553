import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from threading import Event

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blocks.machines import transfer

ROOT = Path(__file__).parents[3]
COPY = """
import pathlib, sys, threading
from blocks.machines.transfer import copy_file
copy_file(*map(pathlib.Path, sys.argv[1:]), threading.Event())
"""


class StopAfter(Event):
    """Is set once it was asked a number of times."""

    def __init__(self, looks):
        super().__init__()
        self.looks = looks

    def is_set(self):
        self.looks -= 1
        return self.looks < 0


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(transfer, "CHUNK", 64)


@pytest.mark.usefixtures("small_chunks")
@settings(deadline=None)
@given(
    content=st.binary(max_size=1000),
    attempts=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 100)), max_size=6),
)
def test_a_transfer_stopped_and_torn_at_random_points_arrives_whole(content, attempts):
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "source", Path(folder) / "target"
        part = Path(folder) / "target.part"
        source.write_bytes(content)
        for looks, torn in attempts:
            if not target.exists():
                try_once(source, target, part, looks, torn)

        arrived = part.stat().st_size if part.exists() else 0
        whole = transfer.copy_file(source, target, Event())

        assert target.read_bytes() == content
        assert whole.sha256 == hashlib.sha256(content).hexdigest()
        assert (whole.bytes, whole.resumed) == (len(content), arrived)


def try_once(source, target, part, looks, torn):
    """Stop after so many looks, and lose the last bytes of what arrived, as a crash may."""
    try:
        transfer.copy_file(source, target, StopAfter(looks))
    except transfer.Stopped:
        size = part.stat().st_size
        with part.open("r+b") as stream:
            stream.truncate(max(0, size - torn))


@pytest.mark.thorough
def test_a_transfer_that_was_killed_goes_on(tmp_path):
    source, part = tmp_path / "source", tmp_path / "target.part"
    source.write_bytes(bytes(range(256)) * 600_000)  # 150 MB
    command = [sys.executable, "-c", COPY, source, tmp_path / "target"]
    with subprocess.Popen(command, cwd=ROOT) as process:
        while process.poll() is None and not (part.exists() and part.stat().st_size):
            time.sleep(0.001)
        process.kill()
    arrived = part.stat().st_size

    whole = transfer.copy_file(source, tmp_path / "target", Event())

    assert 0 < arrived < source.stat().st_size
    assert whole.resumed == arrived
    assert whole.sha256 == transfer_hash(source)
    (tmp_path / "target").unlink()
    source.unlink()


def transfer_hash(path):
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


SMALL_DISK = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]


@pytest.fixture
def mount_small_disk(tmp_path):
    """Return a command that mounts a disk of 1 MB on `tmp_path` and then runs its arguments."""
    command = [*SMALL_DISK, f"mount -t tmpfs -o size=1m none '{tmp_path}' && \"$@\"", "sh"]
    if shutil.which("unshare") is None or subprocess.run([*command, "true"]).returncode:
        pytest.skip("this user may not mount a small disk")
    return command


def test_a_full_disk_is_told_with_both_sizes(mount_small_disk, tmp_path):
    source = tmp_path.with_name(f"{tmp_path.name}-source")
    source.write_bytes(bytes(3_000_000))
    command = [*mount_small_disk, sys.executable, "-c", COPY, source, tmp_path / "target"]

    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    assert result.returncode
    assert re.search(
        r"DiskFull: \S+target needs 3000000 bytes; its disk has \d+ more free", result.stderr
    )
