"""What Amazon's answers, and their absence, mean to every provider that asks it."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time

import pytest

from blocks.providers import boto
from blocks.providers.api import Unanswered
from blocks.providers.boto import Amazon, Refusal
from blocks.secrets import reading
from tests.waiting import PATIENCE
from trainer.contract.errors import (
    ConfigError,
    ConnectionLost,
    CredentialsError,
    RateLimited,
)


@pytest.fixture(autouse=True)
def account(monkeypatch):
    """Set one up that no service of Amazon's is asked for."""
    boto.forget()
    for name, value in {
        "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "eu-west-1",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    yield
    boto.forget()


@pytest.mark.parametrize(
    ("code", "status", "once", "kind"),
    [
        ("InsufficientInstanceCapacity", 500, True, Refusal),  # the code, not the status
        ("ResourceLimitExceeded", 400, True, Refusal),
        ("ExpiredToken", 403, False, CredentialsError),
        ("AccessDeniedException", 400, True, CredentialsError),
        ("RequestLimitExceeded", 503, True, RateLimited),
        ("InternalFailure", 500, True, Unanswered),
        ("InternalFailure", 500, False, ConnectionLost),
        ("502", 502, True, Unanswered),
        ("", 503, False, ConnectionLost),
        ("403", 403, False, CredentialsError),
    ],
)
def test_the_code_of_an_answer_comes_before_its_status(code, status, once, kind):
    response = {
        "Error": {"Code": code, "Message": "not now"},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }

    error = boto._refused("ec2:RunInstances", response, once=once)

    assert type(error) is kind
    assert "ec2:RunInstances" in error.message


def test_a_forbidden_call_names_the_permission():
    response = {"Error": {"Code": "UnauthorizedOperation", "Message": "You are not authorized"}}

    assert "Allow ec2:RunInstances" in str(boto._refused("ec2:RunInstances", response, once=True))


def test_a_region_that_is_not_enabled_is_no_matter_of_keys():
    response = {"Error": {"Code": "OptInRequired", "Message": "You are not subscribed"}}

    error = boto._refused("ec2:DescribeInstances", response, once=False)

    assert type(error) is CredentialsError
    assert "out of the settings" in error.suggestion


async def test_what_was_never_sent_may_be_sent_again():
    with pytest.raises(ConnectionLost) as caught:
        await Amazon(provider="aws").call("sagemaker", "list_training_jobs", once=True)

    assert not isinstance(caught.value, Unanswered)


async def test_an_order_that_is_given_up_before_it_is_sent_never_goes_out(monkeypatch):
    made, began, go, ended = boto._made, threading.Event(), threading.Event(), threading.Event()
    call = Amazon._call

    def slow(*arguments, **options):
        client = made(*arguments, **options)
        client.meta.events.register_first("request-created", lambda **_: began.set())
        client.meta.events.register_last("request-created", lambda **_: go.wait(PATIENCE))
        return client

    def noted(*arguments, **options):
        try:
            return call(*arguments, **options)
        finally:
            ended.set()

    slow.cache_clear = made.cache_clear
    monkeypatch.setattr(boto, "_made", slow)
    monkeypatch.setattr(Amazon, "_call", noted)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        order = asyncio.create_task(
            Amazon(provider="aws").call("sagemaker", "list_training_jobs", once=True)
        )
        assert await asyncio.to_thread(began.wait, PATIENCE)
        order.cancel()
        with pytest.raises(asyncio.CancelledError):
            await order
        go.set()
        assert await asyncio.to_thread(ended.wait, PATIENCE)

        with pytest.raises(BlockingIOError):
            server.accept()


@pytest.mark.parametrize("by_address", [True, False])
def test_a_key_that_is_kept_in_a_file_is_read_there(monkeypatch, tmp_path, by_address):
    path = tmp_path / "key"
    path.write_text("kept-elsewhere\n")
    path.chmod(0o600)
    monkeypatch.delenv(boto.SECRET_KEY)
    if by_address:
        monkeypatch.setenv(boto.SECRET_KEY, f"secret://file{path}")
    else:
        monkeypatch.setenv(f"{boto.SECRET_KEY}_FILE", str(path))

    found = boto._session("aws", "").get_credentials()

    assert (found.access_key, found.secret_key) == ("AKIDEXAMPLE", "kept-elsewhere")


async def test_a_key_that_is_replaced_where_it_is_kept_signs_the_next_request(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "secret://aws/key#id")
    monkeypatch.setenv(boto.SECRET_KEY, "secret://aws/key#secret")
    kept = {"id": "AKIDFIRST", "secret": "1"}
    monkeypatch.setattr(reading, "FRESH_SECONDS", 0.0)
    monkeypatch.setattr("blocks.secrets.aws.fetch", lambda place, name: json.dumps(kept))
    boto.forget()
    client = boto._made(Amazon(provider="aws", region="us-east-1"), "sts", once=False)
    signed = []
    client.meta.events.register(
        "before-send.sts", lambda request, **_: signed.append(request.headers["Authorization"])
    )

    for id in ("AKIDFIRST", "AKIDSECOND"):
        kept["id"] = id
        with pytest.raises(ConnectionLost):
            await Amazon(provider="aws", region="us-east-1").call("sts", "get_caller_identity")

    assert b"AKIDFIRST/" in signed[0]
    assert b"AKIDSECOND/" in signed[-1]


async def test_a_profile_that_does_not_exist_and_a_region_that_is_not_set_are_said(monkeypatch):
    monkeypatch.delenv("AWS_REGION")
    with pytest.raises(CredentialsError, match="nobody"):
        Amazon(provider="aws", profile="nobody").known_region()
    assert Amazon(provider="aws").known_region() == ""
    with pytest.raises(ConfigError, match="AWS_REGION"):
        await Amazon(provider="aws").call("sagemaker", "list_training_jobs")


def test_a_service_that_hangs_holds_up_no_end(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")

        async def ask() -> None:
            call = Amazon(provider="aws").call("sagemaker", "list_training_jobs")
            await asyncio.wait_for(call, 0.5)

        began = time.monotonic()
        with pytest.raises(TimeoutError):
            asyncio.run(ask())

        assert time.monotonic() - began < boto.READ_SECONDS / 2
