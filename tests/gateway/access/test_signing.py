"""What only this installation can have written."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import pytest

from gateway.access.signing import (
    is_signature,
    job_of_token,
    job_token,
    sha256,
    signature,
    signing_key,
)
from gateway.access.tickets import make_ticket, redeem
from tests.gateway.access.people import caller
from trainer.contract.redaction import redacted


async def test_all_replicas_sign_with_one_key(engine):
    keys = await asyncio.gather(*(signing_key(engine) for _ in range(4)))

    assert len(set(keys)) == 1
    assert len(keys[0]) == 32


def test_a_token_is_of_one_job_and_of_one_installation():
    job = uuid4()
    token = job_token(b"key", job)

    assert job_of_token(b"key", token) == str(job)
    assert job_of_token(b"another", token) is None
    assert job_of_token(b"key", token.replace(job.hex, uuid4().hex)) is None
    assert job_of_token(b"key", f"{token}x") is None
    assert job_of_token(b"key", "") is None


def test_a_signature_is_good_for_one_purpose():
    signed = signature(b"key", "session", "x")

    assert is_signature(signed, b"key", "session", "x")
    assert not is_signature(signed, b"key", "form", "x")
    assert not is_signature("", b"key", "session", "x")
    assert not is_signature("ümläut", b"key", "session", "x")


async def test_a_ticket_counts_once(engine):
    ticket = await make_ticket(engine, caller("read"))

    found = await asyncio.gather(*(redeem(engine, ticket) for _ in range(3)))

    assert sorted(map(str, found))[1:] == sorted(map(str, [caller("read"), None, None]))[1:]
    assert found.count(None) == 2


async def test_a_ticket_counts_for_half_a_minute(engine, monkeypatch):
    ticket = await make_ticket(engine, caller("read"))
    import gateway.access.tickets as module

    now = module.time.time()
    monkeypatch.setattr(module.time, "time", lambda: now + 31)

    assert await redeem(engine, ticket) is None


@pytest.mark.parametrize(
    "secret",
    [f"to_0123456789ab_{'A' * 43}", job_token(b"key", uuid4()), f"tt_{'-' * 43}"],
    ids=["key", "job token", "ticket"],
)
def test_none_of_them_stands_in_a_message(secret):
    assert redacted(f"GET /ws?ticket={secret} HTTP/1.1") == "GET /ws?ticket=*** HTTP/1.1"
    assert redacted(sha256("x")) == sha256("x")
