"""Signed addresses of a mailbox: enough of them, in time, and no others."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from blocks.machines.mailbox import grants
from blocks.machines.mailbox.agent import signed
from blocks.machines.mailbox.agent.signed import BySigned
from blocks.machines.mailbox.grants import Grants
from blocks.stores.access import Access
from blocks.stores.bucket import Bucket
from tests.clouds.plain_s3 import PlainS3
from trainer.config.store_urls import parse_store_url

PLACE = "mailboxes/one"


@pytest.fixture
def s3(monkeypatch):
    """Serve a bucket; of the addresses of its mailbox there are few."""
    for name, value in {"BEHIND": 2, "AHEAD": 4, "LEAST": 2, "REMOVED": 3}.items():
        monkeypatch.setattr(grants, name, value)
    monkeypatch.setattr(signed, "SOON_SECONDS", 0.0)
    with PlainS3("models") as server:
        yield server
    assert server.errors == []


@pytest.fixture
def bucket(s3):
    access = Access(endpoint=s3.url, region="eu-west-1", key_id=s3.key_id, secret=s3.secret)
    return Bucket.at(parse_store_url(f"s3://models/{PLACE}"), access)


async def test_there_is_an_address_for_every_command_and_no_old_one_is_left(s3, bucket):
    home, agent = Grants(bucket), None
    agent = BySigned(await home.begin())
    for number in range(20):
        await home.cover(number)
        await bucket.put(f"in/{number:010}", b"do it")
        assert agent.get(f"in/{number:010}") == b"do it"
        agent.put(f"in/{number:010}", b"")
        agent.put(f"out/{number:010}", b"done")

    await home.cover(20)

    assert agent.get("in/0000000020") is None
    assert agent.get("over") is None
    left = [key for key in s3.keys() if "/in/" in key or "/out/" in key]  # noqa: SIM118
    assert left
    assert min(int(key.rpartition("/")[2]) for key in left) >= 20 - 2 - 3 - 6


async def test_what_there_is_no_address_for_is_not_there_and_cannot_be_written(s3, bucket):
    agent = BySigned(await Grants(bucket).begin())

    assert agent.get("in/0000000099") is None
    assert agent.get("../other/in/0000000000") is None
    with pytest.raises(OSError, match="no address for out/0000000099"):
        agent.put("out/0000000099", b"x")


async def test_addresses_are_renewed_before_they_end_and_an_agent_finds_the_new_ones(
    s3, bucket, monkeypatch
):
    monkeypatch.setattr(grants, "LASTING", 3600.0)
    monkeypatch.setattr(grants, "RENEW_SECONDS", 0.0)
    home = Grants(bucket)
    agent = BySigned(await home.begin())
    agent.put("alive", b"1")

    monkeypatch.setattr(grants, "LASTING", 7200.0)
    await home.cover(0)
    agent._read_at = -signed.FRESH_SECONDS  # half a minute later
    agent.put("alive", b"2")

    s3.now = lambda: datetime.now(UTC) + timedelta(minutes=90)
    agent._read_at = -signed.FRESH_SECONDS
    agent.put("alive", b"3")

    assert s3.content(f"{PLACE}/alive") == b"3"


async def test_an_address_that_ended_is_an_error_that_does_not_quote_it(s3, bucket):
    agent = BySigned(await Grants(bucket).begin())
    agent.put("alive", b"1")
    s3.now = lambda: datetime.now(UTC) + timedelta(days=7)

    with pytest.raises(OSError, match="HTTP 403") as caught:
        agent.put("alive", b"2")

    assert "Signature" not in str(caught.value)


async def test_a_mailbox_whose_agent_has_a_key_is_granted_nothing(bucket):
    await bucket.put("alive", b"{}")

    assert await Grants.of(bucket) is None
