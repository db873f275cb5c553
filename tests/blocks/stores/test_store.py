"""Folders in a store: whole or not there, kept once, verified, and swept."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta

import pytest

from blocks.stores.opening import open_bucket
from blocks.stores.store import LARGEST, Store
from tests.clouds.store_wire import StoreFault
from trainer.contract.errors import IntegrityError, StoreError
from trainer.contract.manifest import MANIFEST, verify, write_manifest

NAME = "runs/1/checkpoint-4"


@pytest.fixture
def store(bucket):
    return Store(bucket)


@pytest.fixture
async def in_s3(s3):
    return Store(await open_bucket("s3://models"))


@pytest.fixture
def folder(tmp_path):
    return made(tmp_path / "checkpoint-4", {"a.bin": b"a" * 30_000, "sub/b": b"b", "empty": b""})


def made(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    write_manifest(folder, step=4)
    return folder


async def objects(store):
    return [entry.key for entry in await store.bucket.entries("objects")]


async def test_a_folder_comes_back_as_it_was(store, folder, tmp_path):
    seen = []
    sent = await store.put_folder(folder, NAME, seen.append)
    await store.get_folder(NAME, tmp_path / "back")

    assert (sent, sum(seen)) == (30_001, 30_001)
    assert verify(tmp_path / "back") == verify(folder)
    assert (tmp_path / "back" / MANIFEST).read_bytes() == (folder / MANIFEST).read_bytes()
    assert await store.names("runs/1") == [NAME]


async def test_equal_files_are_kept_and_sent_once(store, folder, tmp_path):
    await store.put_folder(folder, NAME)
    other = made(tmp_path / "next", {"a.bin": b"a" * 30_000, "again": b"a" * 30_000, "c": b"c"})

    assert await store.put_folder(other, "runs/2/output") == 1
    assert len(await objects(store)) == 4


async def test_without_its_manifest_a_folder_is_not_there(in_s3, s3, folder, tmp_path):
    s3.faults.append(StoreFault("PUT", MANIFEST, times=99, answer=s3.refused(403, "AccessDenied")))

    with pytest.raises(StoreError, match="AccessDenied"):
        await in_s3.put_folder(folder, NAME)

    assert await in_s3.names("runs") == []
    assert await in_s3.manifest(NAME) is None
    with pytest.raises(FileNotFoundError):
        await in_s3.get_folder(NAME, tmp_path / "back")


async def test_an_upload_that_ends_half_way_leaves_no_folder_and_goes_on_later(
    in_s3, s3, folder, tmp_path
):
    fault = StoreFault("PUT", "objects/", cut_after=1000)
    fault2 = StoreFault("PUT", "objects/", times=99, answer=s3.refused(403, "AccessDenied"))
    s3.faults += [fault, fault2]
    with pytest.raises(StoreError):
        await in_s3.put_folder(folder, NAME)
    assert fault.began.is_set()
    assert await in_s3.names("runs") == []
    assert s3.unfinished() == 0

    fault2.times = 0
    await in_s3.put_folder(folder, NAME)

    assert verify(folder) == await in_s3.get_folder(NAME, tmp_path / "back")


async def test_a_line_that_breaks_is_tried_again(in_s3, s3, folder, tmp_path):
    s3.faults.append(StoreFault("PUT", "objects/", cut_after=1000))
    s3.faults.append(StoreFault("GET", "objects/", cut_after=1000))
    s3.faults.append(StoreFault("PUT", MANIFEST, answer=s3.refused(503, "SlowDown")))

    await in_s3.put_folder(folder, NAME)
    await in_s3.get_folder(NAME, tmp_path / "back")

    assert verify(tmp_path / "back")["step"] == 4


async def test_an_answer_that_is_lost_is_no_second_object(in_s3, s3, folder):
    """The store has it, and says so when it is asked again."""
    lost = s3.refused(409, "ConditionalRequestConflict", "A conflicting operation is in progress")
    s3.faults.append(StoreFault("PUT", "objects/", answer=lost, commits=True))

    await in_s3.put_folder(folder, NAME)

    assert len(await objects(in_s3)) == 3


async def test_what_is_too_large_for_one_request_goes_up_in_parts(
    in_s3, s3, folder, tmp_path, monkeypatch
):
    monkeypatch.setitem(LARGEST, "s3", 10_000)

    await in_s3.put_folder(folder, NAME)

    assert s3.count("POST", "objects/") == 2  # begun and completed
    assert s3.unfinished() == 0
    await in_s3.get_folder(NAME, tmp_path / "back")


async def test_a_flipped_bit_in_the_store_is_caught(in_s3, s3, folder, tmp_path):
    await in_s3.put_folder(folder, NAME)
    damaged = max(await in_s3.bucket.entries("objects"), key=lambda entry: entry.bytes)
    s3.flip(damaged.key)

    with pytest.raises(IntegrityError, match="does not hold what its name says"):
        await in_s3.get_folder(NAME, tmp_path / "back")
    assert not (tmp_path / "back" / "a.bin").exists()
    assert not (tmp_path / "back" / MANIFEST).exists()


async def test_a_file_that_changed_here_never_gets_there(store, folder):
    (folder / "a.bin").write_bytes(b"x" * 30_000)

    with pytest.raises(IntegrityError, match=r"a\.bin is not what its manifest says"):
        await store.put_folder(folder, NAME)
    assert await store.names("runs") == []


async def test_an_object_of_another_length_is_written_again(in_s3, s3, folder, tmp_path):
    await in_s3.put_folder(folder, NAME)
    big = max(await in_s3.bucket.entries("objects"), key=lambda entry: entry.bytes)
    await in_s3.bucket.put(big.key, b"short")

    assert await in_s3.put_folder(folder, NAME) == 30_000
    await in_s3.get_folder(NAME, tmp_path / "back")


@pytest.mark.parametrize(
    "change",
    [
        lambda manifest: manifest["files"].update({"../x": {"bytes": 1, "sha256": "0" * 64}}),
        lambda manifest: manifest["files"].update({"x": {"bytes": 1, "sha256": "../../secret"}}),
        lambda manifest: manifest.update(files=[]),
    ],
    ids=["a name outside", "a hash that is a path", "no files"],
)
async def test_a_hostile_manifest_is_refused(store, folder, tmp_path, change):
    manifest = json.loads((folder / MANIFEST).read_text())
    change(manifest)
    await store.commit(NAME, json.dumps(manifest).encode())

    with pytest.raises(IntegrityError):
        await store.get_folder(NAME, tmp_path / "back")
    assert not (tmp_path / "x").exists()


async def test_what_arrived_before_is_not_fetched_again(in_s3, s3, folder, tmp_path):
    await in_s3.put_folder(folder, NAME)
    await in_s3.get_folder(NAME, tmp_path / "back")
    before = s3.count("GET", "objects/")

    await in_s3.get_folder(NAME, tmp_path / "back")

    assert s3.count("GET", "objects/") == before == 3


async def test_a_sweep_takes_what_no_manifest_has_named_for_a_day(store, folder, tmp_path):
    await store.put_folder(folder, NAME)
    other = made(tmp_path / "other", {"a.bin": b"a" * 30_000, "c": b"c" * 10})
    await store.put_folder(other, "runs/2/output")
    await store.forget([NAME])
    tomorrow = datetime.now(UTC) + timedelta(days=1, minutes=1)

    assert await store.sweep() == []
    assert sorted(entry.bytes for entry in await store.sweep(tomorrow)) == [0, 1]
    await store.get_folder("runs/2/output", tmp_path / "back")
    assert await store.sweep(tomorrow) == []


async def test_what_is_used_again_is_as_young_as_its_last_use(store, folder, monkeypatch):
    """No sweep takes an object from a folder whose manifest is about to be written."""
    await store.put_folder(folder, NAME)
    await store.forget([NAME])
    monkeypatch.setattr("blocks.stores.store.REFRESH", timedelta(0))

    assert await store.put_folder(folder, NAME) == 30_001


async def test_two_that_bring_the_same_at_once_both_succeed(store, folder, tmp_path):
    names = [f"runs/{run}/output" for run in range(3)]

    await asyncio.gather(*(store.put_folder(folder, name) for name in names))

    for name in names:
        await store.get_folder(name, tmp_path / name)
        assert verify(tmp_path / name) == verify(folder)
