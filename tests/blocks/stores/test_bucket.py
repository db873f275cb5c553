"""A bucket: what it keeps, what it refuses, and what it says."""

from __future__ import annotations

import mmap
from datetime import UTC, datetime, timedelta
from threading import Event

import httpx
import pytest

from blocks.stores.opening import open_bucket
from tests.clouds.store_wire import StoreFault
from trainer.contract.errors import ConfigError, StoreAway, StoreError


async def test_it_gives_back_what_was_put_there(bucket):
    await bucket.put("a/one", b"1")
    await bucket.put("a/one", b"one")
    await bucket.put("b", b"")

    assert await bucket.get("a/one") == b"one"
    assert [(entry.key, entry.bytes) for entry in await bucket.entries()] == [
        ("a/one", 3),
        ("b", 0),
    ]
    assert [entry.key for entry in await bucket.entries("a")] == ["a/one"]
    assert await bucket.folders() == ["a"]
    pieces = []
    bucket.read_into("a/one", pieces.append, Event())
    assert b"".join(map(bytes, pieces)) == b"one"
    assert (await bucket.head("b")).bytes == 0


async def test_what_is_missing_is_missing(bucket):
    assert await bucket.head("none") is None
    with pytest.raises(FileNotFoundError, match="none"):
        await bucket.get("none")
    assert await bucket.entries("none") == []
    await bucket.put("there", b"1")
    await bucket.delete(["none", "there"])
    assert await bucket.entries() == []


async def test_the_first_to_create_wins(bucket):
    assert await bucket.create("key", b"first")
    assert not await bucket.create("key", b"second")
    assert await bucket.get("key") == b"first"


async def test_a_mapped_file_is_sent_as_it_is(bucket, tmp_path):
    path = tmp_path / "big"
    path.write_bytes(b"0123456789" * 10_000)
    with path.open("rb") as stream:
        mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    assert await bucket.create("big", mapped)
    assert (await bucket.head("big")).bytes == 100_000


async def test_of_two_that_replace_one_version_one_succeeds(s3):
    bucket = await open_bucket("s3://models")
    await bucket.put("state", b"1")
    _, version = await bucket.get_version("state")

    assert await bucket.replace("state", b"2", version)
    assert not await bucket.replace("state", b"3", version)
    assert await bucket.get("state") == b"2"


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("ftp://x/y", "ftp:// is no kind of store"),
        ("s3:///x", "cannot be the name of a bucket"),
        ("az://Models/x", "cannot be the name of a container"),
        ("s3://models/../x", "cannot be a path"),
        ("file://x", "Write it as file:///x"),
    ],
)
async def test_what_is_no_address_is_refused_by_name(address, words):
    with pytest.raises(ConfigError, match=words) as caught:
        await open_bucket(address, field="store")
    assert caught.value.message.startswith("store = ")


async def test_a_wrong_key_is_said_clearly(s3, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAWRONG")
    bucket = await open_bucket("s3://models/team")

    with pytest.raises(
        StoreError, match=r"s3://models/team: cannot write x: the key is refused: Inv"
    ) as e:
        await bucket.put("x", b"1")
    assert "AWS_ACCESS_KEY_ID" in e.value.suggestion


async def test_a_wrong_secret_is_said_clearly(s3, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    bucket = await open_bucket("s3://models/team")

    with pytest.raises(StoreError, match="the key is refused: SignatureDoesNotMatch"):
        await bucket.entries()


async def test_a_missing_right_is_named(s3):
    s3.denied = {"PUT", "DELETE", "POST"}
    bucket = await open_bucket("s3://models/team")

    with pytest.raises(
        StoreError, match="s3://models/team: cannot write x: AccessDenied"
    ) as caught:
        await bucket.create("x", b"1")
    assert "Allow s3:PutObject on s3://models/team" in caught.value.suggestion


async def test_a_missing_bucket_is_named(s3):
    bucket = await open_bucket("s3://modles/team")

    with pytest.raises(StoreError, match="s3://modles/team: there is no such bucket") as caught:
        await bucket.put("x", b"1")
    assert "aws s3 mb s3://modles" in caught.value.suggestion
    with pytest.raises(StoreError, match="there is no such bucket"):
        await bucket.get("x")


async def test_a_store_that_is_away_is_waited_for(s3):
    bucket = await open_bucket("s3://models")
    s3.faults.append(StoreFault("PUT", "/x", times=2, answer=s3.refused(503, "SlowDown")))

    await bucket.put("x", b"1")

    assert s3.content("x") == b"1"


async def test_a_store_that_stays_away_is_no_reason_to_end(s3, monkeypatch):
    monkeypatch.setattr("blocks.stores.bucket.SMALL_SECONDS", 0.3)
    bucket = await open_bucket("s3://models")
    s3.faults.append(StoreFault("PUT", "/x", times=99, answer=s3.refused(503, "SlowDown")))

    with pytest.raises(StoreAway, match="s3://models: no answer within"):
        await bucket.put("x", b"1")


async def test_a_signed_address_needs_no_key_and_expires(s3):
    bucket = await open_bucket("s3://models/team")
    [put] = await bucket.sign("PUT", ["a b/ü"], 60)
    [get] = await bucket.sign("GET", ["a b/ü"], 60)

    async with httpx.AsyncClient() as client:
        assert (await client.put(put, content=b"by url")).status_code == 200
        assert (await client.get(get)).content == b"by url"
        s3.now = lambda: datetime.now(UTC) + timedelta(seconds=61)
        assert (await client.get(get)).status_code == 403
