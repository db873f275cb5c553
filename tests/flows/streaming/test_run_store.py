"""Checkpoints between a machine and the job's store, and what happens when the store does not take them."""

from __future__ import annotations

import sys
from uuid import uuid4

import pytest

from blocks.machines.local import LocalMachine
from blocks.stores.store import Store
from blocks.workplaces.machine import MachineWorkplace
from flows.run_folder import RunFolder
from flows.saved import saved_step, stored_steps
from flows.streaming import carrying, run_store
from flows.streaming.checkpoint_mirror import CheckpointMirror
from flows.streaming.run_store import RunStore
from tests.clouds.blob import BlobServer
from tests.clouds.gcs import GoogleStoreServer
from tests.clouds.store_wire import StoreFault
from trainer.config import TrainingJob
from trainer.contract import checkpoints
from trainer.contract.checkpoints import all_checkpoints, step_of
from trainer.contract.errors import StoreError
from trainer.contract.manifest import verify
from trainer.courier.orders import FOLDER

FILES = ("adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth")


@pytest.fixture
def run(home):
    return RunFolder(uuid4())


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr(carrying, "LOOK_SECONDS", 0.05)


def machine_at(folder):
    (folder / "jobs/one").mkdir(parents=True, exist_ok=True)
    return MachineWorkplace(LocalMachine(), str(folder / "jobs/one"))


def save(folder, step):
    staged = folder / checkpoints.STAGING / f"checkpoint-{step}"
    staged.mkdir(parents=True)
    for name in (*FILES, "trainer_state.json"):
        (staged / name).write_bytes(f"{name} of {step}".encode() * 9)
    (staged / "tokenizer.json").write_bytes(b"the same in all")
    return checkpoints.commit(staged, folder)


async def store_of(run, store="s3://models/team"):
    job = TrainingJob.model_validate(
        {"name": "x", "store": store, "training": {"model": "m", "dataset": {"path": "d"}}}
    )
    return await RunStore.of(job, run)


async def mirrored(run, folder, **changes):
    """Mirror what a machine has, once."""
    mirror = CheckpointMirror(
        machine_at(folder),
        run.checkpoints,
        store=await store_of(run, **changes),
        python=sys.executable,
    )
    await mirror.sync()


async def test_a_machine_brings_its_checkpoint_to_the_store_and_the_next_one_gets_it_from_there(
    s3, run, tmp_path
):
    saved = save(tmp_path / "first/jobs/one/checkpoints", 10)

    await mirrored(run, tmp_path / "first")

    assert stored_steps(run) == [10]
    assert saved_step(run) == 10
    assert all_checkpoints(run.checkpoints) == []
    store = await store_of(run)
    assert await store.give(machine_at(tmp_path / "second"), sys.executable, beyond=0)
    given = tmp_path / "second/jobs/one/checkpoints/checkpoint-10"
    checkpoints.check(given)
    assert verify(given) == verify(saved)
    # Nothing that permits anything stays on a machine.
    left = [
        path.name
        for at in ("first", "second")
        for path in (tmp_path / at / "jobs/one" / FOLDER).iterdir()
    ]
    assert left == ["courier.log", "courier.log"]


@pytest.mark.parametrize("scheme", ["gs", "az"])
async def test_so_it_does_at_google_and_azure(scheme, run, tmp_path, monkeypatch):
    saved = save(tmp_path / "first/jobs/one/checkpoints", 10)
    with (GoogleStoreServer if scheme == "gs" else BlobServer)() as server:
        if isinstance(server, BlobServer):
            monkeypatch.setenv(*next(iter(server.environ().items())))
        else:
            (tmp_path / "google.json").write_text(server.credentials())
            monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "google.json"))
            monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
        await mirrored(run, tmp_path / "first", store=f"{scheme}://models/team")
        assert stored_steps(run) == [10]
        assert all_checkpoints(run.checkpoints) == []

        store = await store_of(run, f"{scheme}://models/team")
        assert await store.give(machine_at(tmp_path / "second"), sys.executable, beyond=0)

        assert verify(tmp_path / "second/jobs/one/checkpoints/checkpoint-10") == verify(saved)
        assert server.errors == []


async def test_only_the_newest_two_stay_and_equal_files_are_sent_once(s3, run, tmp_path):
    for step in (10, 20, 30):
        save(tmp_path / "job/jobs/one/checkpoints", step)
        await mirrored(run, tmp_path / "job")

    assert stored_steps(run) == [30, 20]
    manifests = [name for name in s3.names() if name.endswith("MANIFEST.json")]
    assert [name.split("/")[-2] for name in manifests] == ["checkpoint-20", "checkpoint-30"]
    assert s3.count("PUT", "/objects/") == 3 * 5 + 1


async def test_one_that_the_store_refuses_comes_home(s3, run, tmp_path):
    save(tmp_path / "job/jobs/one/checkpoints", 10)
    s3.denied = {"PUT"}

    await mirrored(run, tmp_path / "job")

    assert [step_of(path) for path in all_checkpoints(run.checkpoints)] == [10]
    assert stored_steps(run) == []


async def test_a_damaged_file_on_the_machine_gets_neither_there_nor_home(s3, run, tmp_path):
    saved = save(tmp_path / "job/jobs/one/checkpoints", 10)
    (saved / "optimizer.pt").write_bytes(b"x" * (saved / "optimizer.pt").stat().st_size)

    await mirrored(run, tmp_path / "job")

    assert stored_steps(run) == []
    assert all_checkpoints(run.checkpoints) == []
    assert [name for name in s3.names() if name.endswith("MANIFEST.json")] == []


async def test_an_address_that_expires_on_the_way_is_signed_anew(s3, run, tmp_path):
    save(tmp_path / "job/jobs/one/checkpoints", 10)
    expired = s3.refused(403, "AccessDenied", "Request has expired")
    s3.faults.append(StoreFault("PUT", "/objects/", answer=expired))

    await mirrored(run, tmp_path / "job")

    assert stored_steps(run) == [10]


async def test_a_checkpoint_that_is_damaged_in_the_store_is_passed_over(s3, run, tmp_path):
    for step in (10, 20):
        saved = save(tmp_path / "job/jobs/one/checkpoints", step)
        await mirrored(run, tmp_path / "job")
    sha256 = verify(saved)["files"]["optimizer.pt"]["sha256"]
    s3.flip(f"team/objects/{sha256}")

    store = await store_of(run)

    assert await store.give(machine_at(tmp_path / "next"), sys.executable, beyond=0)
    assert stored_steps(run) == [10]
    checkpoints.check(tmp_path / "next/jobs/one/checkpoints/checkpoint-10")
    whole, _ = checkpoints.newest_valid(tmp_path / "next/jobs/one/checkpoints")
    assert step_of(whole) == 10


async def test_a_refusal_for_a_moment_costs_no_step_of_what_is_there(
    s3, run, tmp_path, monkeypatch
):
    monkeypatch.setattr(run_store, "PAUSE_SECONDS", 0.01)
    save(tmp_path / "jobs/one/checkpoints", 10)
    await mirrored(run, tmp_path)
    store = await store_of(run)
    refused = s3.refused(403, "ExpiredToken")
    s3.faults.append(StoreFault("HEAD", "checkpoint-10", times=1, answer=refused))

    assert await store.give(machine_at(tmp_path / "next"), sys.executable, beyond=0)
    assert stored_steps(run) == [10]


async def test_a_store_that_stays_away_costs_the_next_machine_nothing(
    s3, run, tmp_path, monkeypatch
):
    monkeypatch.setattr(run_store, "PATIENCE_SECONDS", -1.0)
    for step in (10, 20, 30):
        save(tmp_path / "first/jobs/one/checkpoints", step)
        await mirrored(run, tmp_path / "first")
    refused = s3.refused(403, "ExpiredToken")
    s3.faults += [StoreFault(way, "checkpoint-", 99, refused) for way in ("GET", "HEAD")]

    assert not await (await store_of(run)).give(machine_at(tmp_path / "2"), sys.executable, 0)

    # Nothing counts as saved that cannot be had, and what this machine saves is kept beside it.
    assert stored_steps(run) == []
    s3.faults.clear()
    save(tmp_path / "2/jobs/one/checkpoints", 5)
    await mirrored(run, tmp_path / "2")
    assert stored_steps(run) == [5]
    assert await (await store_of(run)).give(machine_at(tmp_path / "3"), sys.executable, 0)
    checkpoints.check(tmp_path / "3/jobs/one/checkpoints/checkpoint-30")
    assert stored_steps(run) == [30, 5]


@pytest.mark.parametrize(
    "record",
    [{"class": "BudgetExceeded", "message": "x"}, {"class": 1}, None, "x"],
    ids=["another class", "no text", "none", "no object"],
)
async def test_a_machine_ends_no_job_by_what_its_courier_says(run, tmp_path, record):
    machine = machine_at(tmp_path)
    (tmp_path / "jobs/one/store").mkdir()
    await machine.write("store/x.result.json", {"state": "failed", "error": record})

    with pytest.raises(StoreError):
        await carrying._until_done(machine, "x", "", 0)


async def test_a_number_that_no_courier_counts_to_ends_no_job(run, tmp_path, monkeypatch):
    monkeypatch.setattr(carrying, "REPORT_SECONDS", -1)
    machine = machine_at(tmp_path / "machine")
    working = b'{"state": "working", "beat": 1, "bytes": 1' + b"0" * 400 + b"}"
    said = iter([working, b'{"state": "done"}'])

    async def read(name):
        return next(said)

    monkeypatch.setattr(machine, "read", read)

    await carrying._until_done(machine, "x", "", carrying.BIG + 1)

    assert next(said, None) is None


async def test_with_a_folder_as_store_checkpoints_go_there_through_home(run, tmp_path):
    save(tmp_path / "job/jobs/one/checkpoints", 10)

    await mirrored(run, tmp_path / "job", store=str(tmp_path / "store"))

    assert stored_steps(run) == [10]
    assert [step_of(path) for path in all_checkpoints(run.checkpoints)] == [10]
    store = await store_of(run, str(tmp_path / "store"))
    assert await store.give(machine_at(tmp_path / "next"), sys.executable, beyond=0)
    checkpoints.check(tmp_path / "next/jobs/one/checkpoints/checkpoint-10")


async def test_the_result_takes_the_place_of_the_checkpoints(s3, run, tmp_path):
    saved = save(tmp_path / "job/jobs/one/checkpoints", 10)
    await mirrored(run, tmp_path / "job")
    before = s3.count("PUT", "/objects/")
    store = await store_of(run)

    where = await store.keep_result(saved)

    assert where == f"s3://models/team/runs/{run.run_id}/output"
    assert s3.count("PUT", "/objects/") == before
    assert stored_steps(run) == []
    assert await store.store.names("runs") == [f"runs/{run.run_id}/output"]
    assert await Store(store.store.bucket).sweep() == []
