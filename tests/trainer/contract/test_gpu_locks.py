from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.waiting import PATIENCE, until_now
from trainer.contract import gpu_files
from trainer.contract.errors import ConfigError, GpusTaken
from trainer.contract.gpu_locks import (
    Allocation,
    Holder,
    holders,
    read_allocation,
    take,
)

ROOT = Path(__file__).parents[3]
ME = Holder.here(run="0123456789ab", name="mine")


def whole(*uuids):
    return Allocation(uuids=uuids)


def share(gib, *uuids, of=24.0):
    return Allocation(uuids=uuids or ("GPU-0",), share_gb=gib, vram_gb=of)


def test_a_gpu_is_one_jobs_until_it_lets_go():
    with take(whole("GPU-0", "GPU-1"), ME):
        assert [one.name for one in holders("GPU-1")] == ["mine"]
        with pytest.raises(GpusTaken, match=r"GPU-1 is taken by mine of .* \(run 01234567\)"):
            take(whole("GPU-1", "GPU-2"), ME, patience=0)
        assert holders("GPU-2") == []  # all or none

    assert holders("GPU-0") == []
    take(whole("GPU-1", "GPU-2"), ME).close()


def test_shares_fill_a_gpu_and_no_more():
    with take(share(10), ME), take(share(8), ME):
        assert sum(one.share_gb for one in holders("GPU-0")) == 18
        with pytest.raises(GpusTaken, match=r"6\.0 GiB left to share and 7 are asked for"):
            take(share(7), ME, patience=0)
        with pytest.raises(GpusTaken):
            take(whole("GPU-0"), ME, patience=0)
        take(share(6), ME).close()
    with take(whole("GPU-0"), ME), pytest.raises(GpusTaken, match="is taken by mine"):
        take(share(1), ME, patience=0)


def test_a_share_may_lie_in_several_pieces():
    first, between, last = (take(share(8), ME) for _ in range(3))
    first.close()
    last.close()

    with take(share(16), Holder.here(name="wide")):
        found = {one.name: one.share_gb for one in holders("GPU-0")}

    assert found == {"mine": 8, "wide": 16}
    between.close()


def test_locks_beyond_what_is_shared_out_make_no_room():
    first, beyond = (take(share(20, of=48), ME) for _ in range(2))
    first.close()

    with beyond, take(share(8, of=10), ME), pytest.raises(GpusTaken):
        take(share(8, of=10), ME, patience=0)


def test_a_folder_that_depends_on_where_one_works_is_refused(monkeypatch):
    monkeypatch.setenv(gpu_files.FOLDER_VARIABLE, "~/locks")

    with pytest.raises(ConfigError, match="GPU_LOCKS = '~/locks' is not absolute"):
        take(whole("GPU-0"), ME)


def test_who_inherits_the_lock_holds_it():
    held = take(whole("GPU-0"), ME)
    child = subprocess.Popen(["sleep", "600"], pass_fds=held.descriptors)
    held.close()

    with pytest.raises(GpusTaken):
        take(whole("GPU-0"), ME, patience=0)
    child.kill()
    child.wait()
    take(whole("GPU-0"), ME).close()


def test_a_note_without_a_lock_means_nothing():
    take(whole("GPU-0"), ME).close()

    assert (gpu_files.folder() / "GPU-0.0.json").exists()
    assert holders("GPU-0") == []


def test_a_file_that_was_removed_excludes_nobody_and_is_made_anew():
    held = take(whole("GPU-0"), ME)
    gpu_files.file_of("GPU-0").unlink()

    with take(whole("GPU-0"), ME):
        assert len(holders("GPU-0")) == 1
    held.close()


def test_the_files_are_for_all_users():
    before = os.umask(0o077)
    try:
        take(whole("GPU-0"), ME).close()
    finally:
        os.umask(before)

    folder = gpu_files.folder()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o1777
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o666}


def test_a_trap_of_another_user_leads_nowhere(tmp_path):
    (tmp_path / "victim").write_text("dear")
    gpu_files.file_of("GPU-0").symlink_to(tmp_path / "victim")
    os.mkfifo(gpu_files.file_of("GPU-1"))
    (gpu_files.folder() / "GPU-2.0.json").symlink_to(tmp_path / "victim")

    for uuid in ("GPU-0", "GPU-1"):
        with pytest.raises(ConfigError, match=r"the lock of a GPU, cannot be opened"):
            take(whole(uuid), ME)
    with take(whole("GPU-2"), ME):
        assert [str(one) for one in holders("GPU-2")] == ["a process of somebody"]
    assert (tmp_path / "victim").read_text() == "dear"


def test_a_note_of_a_stranger_is_shown_without_harm():
    with take(whole("GPU-0"), ME):
        note = gpu_files.folder() / "GPU-0.0.json"
        for text in (
            '{"name": "\\u001b[2J", "pid": "x"}',
            "[" * 4000,
            "",
            "{",
            "[]",
            '{"pid": []}',
        ):
            note.write_text(text)
            [found] = holders("GPU-0")
            assert str(found).isprintable()


def test_a_sick_gpu_is_nobodys_until_it_is_healed_or_the_computer_starts_anew(monkeypatch):
    gpu_files.mark_sick("GPU-0", "the driver reported Xid 79")

    with pytest.raises(GpusTaken, match="GPU-0 is out of use: the driver reported Xid 79"):
        take(whole("GPU-1", "GPU-0"), ME)
    assert gpu_files.heal("GPU-0")
    assert not gpu_files.heal("GPU-0")
    take(whole("GPU-0"), ME).close()

    gpu_files.mark_sick("GPU-0", "again")
    monkeypatch.setattr(gpu_files, "_boot", lambda: "another boot")
    assert gpu_files.sickness("GPU-0") == ""


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"uuids": "GPU-0"},
        {"uuids": ["../x"]},
        {"uuids": [7]},
        {"uuids": ["GPU-0"] * 65},
        {"uuids": ["GPU-0"], "share_gb": 0, "vram_gb": 24},
        {"uuids": ["GPU-0"], "share_gb": 30, "vram_gb": 24},
        {"uuids": ["GPU-0"], "share_gb": 3},
        {"uuids": ["GPU-0"], "share_gb": True, "vram_gb": 24},
        {"uuids": ["GPU-0"], "share_gb": float("nan"), "vram_gb": 24},
    ],
)
def test_what_does_not_name_gpus_is_refused(record):
    with pytest.raises(ConfigError, match=r"gpus\.json"):
        read_allocation(record)


RACE = """
import random, sys
from trainer.contract.errors import GpusTaken
from trainer.contract.gpu_locks import Allocation, Holder, take
from pathlib import Path
folder, number, rounds = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
rng, won, broken = random.Random(number), 0, 0
sys.stdin.readline()  # all at once
for _ in range(rounds):
    uuids = tuple(rng.sample([f"GPU-{n}" for n in range(4)], rng.choice([1, 1, 2, 4])))
    try:
        held = take(Allocation(uuids=uuids), Holder(pid=number), patience=0.01)
    except GpusTaken:
        continue
    with held:
        for uuid in uuids:
            # Not atomic on purpose: two who were here at once would be seen.
            mark = folder / uuid
            broken += mark.exists()
            mark.write_text(str(number))
        for uuid in uuids:
            mark = folder / uuid
            broken += mark.read_text() != str(number)
            mark.unlink()
        won += 1
print(won, broken)
"""


def race(folder, processes, rounds):
    """Let processes race for four GPUs; return how often one had some, and how often two did."""
    folder.mkdir()
    started = [
        subprocess.Popen(
            [sys.executable, "-c", RACE, str(folder), str(number), str(rounds)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(processes)
    ]
    for process in started:
        process.stdin.write("\n")
        process.stdin.flush()
    results = [
        list(map(int, process.communicate(timeout=PATIENCE)[0].split())) for process in started
    ]
    return sum(won for won, _ in results), sum(broken for _, broken in results)


def test_processes_that_race_never_have_one_gpu_at_once(tmp_path):
    won, broken = race(tmp_path / "marks", 6, 60)

    assert broken == 0
    assert won > 60
    assert all(holders(f"GPU-{n}") == [] for n in range(4))


def test_whoever_is_killed_leaves_nothing_behind():
    code = (
        "import time; from trainer.contract.gpu_locks import *\n"
        "held = take(Allocation(uuids=('GPU-0',)), Holder.here(name='doomed')); time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    until_now(lambda: [one.name for one in holders("GPU-0")] == ["doomed"])
    process.send_signal(signal.SIGKILL)
    process.wait()

    take(whole("GPU-0"), ME).close()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_users_keep_to_each_others_locks(monkeypatch):
    with tempfile.TemporaryDirectory() as place:  # where both may go
        Path(place).chmod(0o755)
        folder = Path(place) / "locks"
        monkeypatch.setenv(gpu_files.FOLDER_VARIABLE, str(folder))
        take(whole("GPU-0"), ME).close()

        def as_nobody(work):
            child = os.fork()
            if child == 0:
                try:
                    os.setgroups([])
                    os.setgid(65534)
                    os.setuid(65534)
                    os._exit(work())
                finally:
                    os._exit(99)
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

        def takes(uuid):
            try:
                take(whole(uuid), Holder.here(name="theirs"), patience=0).close()
            except GpusTaken:
                return 1
            return 0

        assert as_nobody(lambda: takes("GPU-0")) == 0  # a file of root's
        assert as_nobody(lambda: takes("GPU-1")) == 0  # a file of its own
        with take(whole("GPU-0", "GPU-1"), ME):
            assert as_nobody(lambda: takes("GPU-0")) == 1
            assert as_nobody(lambda: takes("GPU-1")) == 1
            seen = as_nobody(lambda: int([one.name for one in holders("GPU-1")] != ["mine"]))
        assert seen == 0  # whoever wrote the note before
        gpu_files.mark_sick("GPU-1", "broken")
        assert as_nobody(lambda: int(not gpu_files.heal("GPU-1"))) == 0
        assert gpu_files.sickness("GPU-1") == ""
