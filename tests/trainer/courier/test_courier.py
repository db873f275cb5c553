"""The courier: files between a machine and a store, by addresses that carry the permission."""

from __future__ import annotations

import asyncio
import hashlib
import json
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta

import pytest

from blocks.stores.opening import open_bucket
from tests.clouds.s3 import KEY, SECRET
from tests.clouds.store_wire import StoreFault
from tests.waiting import until
from trainer.contract.errors import ConfigError
from trainer.contract.files import read_json
from trainer.courier import carrying, orders
from trainer.courier.orders import CarryingOrder, carry_out, order_name, result_name, take

FILES = {"a.bin": b"a" * 3_000_000, "sub/b": b"b", "empty": b""}


@pytest.fixture
def job(tmp_path):
    job = tmp_path / "job"
    (job / "store").mkdir(parents=True)
    for name, content in FILES.items():
        path = job / "checkpoints/checkpoint-4" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return job


async def order(verb, folder="checkpoints/checkpoint-4", seconds=60, files=FILES):
    bucket = await open_bucket("s3://models/team")
    keys = [f"objects/{name}" for name in files]
    urls = await bucket.sign("PUT" if verb == "put" else "GET", keys, seconds)
    facts = {
        name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest(), "url": url}
        for (name, content), url in zip(files.items(), urls, strict=True)
    }
    return CarryingOrder(verb, folder, facts, {})


def result(job):
    return read_json(job / result_name("one"))


async def test_it_carries_a_folder_there_and_back(s3, job):
    assert carry_out(job, "one", await order("put"))
    assert {key: len(s3.content(key)) for key in s3.names()} == {
        "team/objects/a.bin": 3_000_000,
        "team/objects/empty": 0,
        "team/objects/sub/b": 1,
    }
    assert carry_out(job, "one", await order("get", "back"))
    for name, content in FILES.items():
        assert (job / "back" / name).read_bytes() == content
    assert (result(job)["state"], result(job)["bytes"]) == ("done", 3_000_001)


async def test_it_is_started_beside_the_training_with_the_standard_library_alone(s3, job):
    sent = await order("put")
    (job / order_name("one")).write_text(json.dumps(sent.to_dict()))

    command = [sys.executable, "-I", "-m", "trainer.courier", str(job), "one"]
    answer = await asyncio.to_thread(subprocess.check_output, command)

    assert json.loads(answer)["pid"] > 0
    await until(lambda: (result(job) or {}).get("state") == "done")
    assert s3.content("team/objects/a.bin") == FILES["a.bin"]
    # Nothing that permits anything stays on the machine.
    everything = b"".join(path.read_bytes() for path in (job / "store").iterdir())
    assert b"X-Amz-Signature" not in everything
    assert not (job / order_name("one")).exists()


async def test_one_that_nobody_waits_for_any_more_gives_up(job, s3, monkeypatch):
    def slowly(path, facts, url, headers, progress, role):
        for _ in range(1000):
            result(job) and (job / result_name("one")).unlink()  # as home does
            time.sleep(0.01)
            progress(1)

    monkeypatch.setattr(orders, "BEAT_SECONDS", 0.01)
    monkeypatch.setattr(orders, "send", slowly)

    assert not await asyncio.to_thread(carry_out, job, "one", await order("put", files={"a": b"a"}))
    assert result(job) is None


async def test_what_is_not_what_it_should_be_never_gets_there(s3, job):
    (job / "checkpoints/checkpoint-4/a.bin").write_bytes(b"a" * 2_999_999 + b"x")

    assert not carry_out(job, "one", await order("put"))

    assert result(job)["error"]["class"] == "IntegrityError"
    assert s3.content("team/objects/a.bin") is None


async def test_a_checkpoint_that_was_removed_meanwhile_is_given_up_at_once(s3, job):
    (job / "checkpoints/checkpoint-4/a.bin").unlink()

    assert not carry_out(job, "one", await order("put"))

    assert result(job)["error"]["class"] == "IntegrityError"
    assert "No such file" in result(job)["error"]["message"]


async def test_a_full_disk_is_said_to_be_full(s3, job):
    carry_out(job, "one", await order("put"))
    (job / "back").mkdir()
    (job / "back/a.bin.part").symlink_to("/dev/full")

    assert not carry_out(job, "one", await order("get", "back"))

    assert result(job)["error"]["class"] == "DiskFull"


async def test_a_disk_that_takes_no_file_is_no_trouble_of_the_store(s3, job, monkeypatch):
    monkeypatch.setattr(carrying, "PATIENCE_SECONDS", 0.0)
    carry_out(job, "one", await order("put"))
    (job / "back/a.bin.part").mkdir(parents=True)

    assert not carry_out(job, "one", await order("get", "back"))

    assert result(job)["error"]["class"] == "DiskFull"


async def test_a_busy_store_and_a_broken_line_are_tried_again(s3, job, monkeypatch):
    monkeypatch.setattr(carrying.random, "uniform", lambda low, high: 0.01)
    s3.faults += [
        StoreFault("PUT", "a.bin", answer=s3.refused(503, "SlowDown")),
        StoreFault("PUT", "a.bin", cut_after=100_000),
        StoreFault("GET", "a.bin", cut_after=100_000),
    ]

    assert carry_out(job, "one", await order("put"))
    assert carry_out(job, "one", await order("get", "back"))

    assert (job / "back/a.bin").read_bytes() == FILES["a.bin"]


async def test_an_address_that_has_expired_is_said_to_have(s3, job):
    sent = await order("put")
    s3.now = lambda: datetime.now(UTC) + timedelta(minutes=5)

    assert not carry_out(job, "one", sent)

    assert result(job)["error"]["class"] == "LinkExpired"
    shown = json.dumps(result(job))
    assert KEY not in shown
    assert SECRET not in shown
    assert "X-Amz" not in shown


async def test_a_store_that_stays_away_is_given_up_in_time(s3, job, monkeypatch):
    monkeypatch.setattr(carrying, "PATIENCE_SECONDS", 0.2)
    sent = await order("put")
    s3.faults.append(StoreFault("PUT", "", times=99, answer=s3.refused(503, "SlowDown")))

    assert not carry_out(job, "one", sent)

    assert result(job)["error"]["class"] == "StoreAway"


async def test_a_flipped_bit_is_caught_on_the_machine(s3, job):
    carry_out(job, "one", await order("put"))
    s3.flip("team/objects/a.bin")

    assert not carry_out(job, "one", await order("get", "back"))

    assert result(job)["error"]["class"] == "IntegrityError"
    assert not (job / "back/a.bin").exists()


def test_an_order_names_no_file_outside_the_job_directory(job):
    sent = CarryingOrder("get", "../elsewhere", {}, {}).to_dict()
    (job / order_name("one")).write_text(json.dumps(sent))

    with pytest.raises(Exception, match="not the name of a file inside"):
        take(job, "one")
    with pytest.raises(ConfigError):
        take(job, "one")
