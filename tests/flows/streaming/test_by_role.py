"""Checkpoints between a machine and the store of its own cloud, by the machine's role."""

from __future__ import annotations

import functools
import logging
import sys

import pytest

from blocks.providers.aws import AWS
from blocks.providers.azure import Azure
from blocks.providers.gcp import GoogleCloud
from flows.saved import stored_steps
from flows.streaming.checkpoint_mirror import CheckpointMirror
from tests.clouds.metadata import Bearers
from tests.clouds.plain_s3 import PlainS3
from tests.flows.streaming.test_run_store import machine_at, run, save, store_of
from trainer.config.store_urls import parse_store_url
from trainer.contract import checkpoints
from trainer.contract.errors import LinkExpired, StoreError
from trainer.courier.carrying import receive, send
from trainer.courier.cloud_role import CloudRole

__all__ = ["run"]
SIGNED = "X-Amz-Signature"
FACTS = {"bytes": 3, "sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"}
"""Of abc."""


@pytest.fixture
def asked():
    """What machines and home sent, as (method, target, headers)."""
    return []


@pytest.fixture
def bucket(monkeypatch, metadata, asked):
    class Kept(PlainS3):
        def answer(self, one):
            asked.append((one.method, one.target, one.headers))
            return super().answer(one)

    with Kept("models") as server:
        for name, value in server.environ().items():
            monkeypatch.setenv(name, value)
        metadata.keys |= {"AccessKeyId": server.key_id, "SecretAccessKey": server.secret}
        yield server


def with_role(folder):
    place = machine_at(folder)
    place.role_at = AWS(instance_profile="trainer").role_at
    return place


async def mirrored(run, place):
    store = await store_of(run)
    await CheckpointMirror(place, run.checkpoints, store=store, python=sys.executable).sync()


async def test_a_machine_with_a_role_needs_no_address_that_permits_anything(
    bucket, asked, run, tmp_path
):
    save(tmp_path / "first/jobs/one/checkpoints", 10)

    await mirrored(run, with_role(tmp_path / "first"))

    assert stored_steps(run) == [10]
    store = await store_of(run)
    assert await store.give(with_role(tmp_path / "second"), sys.executable, beyond=0)
    checkpoints.check(tmp_path / "second/jobs/one/checkpoints/checkpoint-10")
    by_role = [method for method, _, headers in asked if "x-amz-security-token" in headers]
    assert {*by_role} == {"PUT", "GET"}
    assert [target for _, target, _ in asked if SIGNED in target] == []
    assert bucket.errors == []


async def test_one_whose_role_is_refused_gets_signed_addresses_and_says_so_once(
    bucket, metadata, asked, run, tmp_path, caplog
):
    metadata.keys["SecretAccessKey"] = "of another account"
    caplog.set_level(logging.INFO)
    for step in (10, 20):
        save(tmp_path / "first/jobs/one/checkpoints", step)
    store, place = await store_of(run), with_role(tmp_path / "first")

    for step in (10, 20):
        assert await store.carry(place, sys.executable, step)

    assert stored_steps(run) == [20, 10]
    assert {method for method, target, _ in asked if SIGNED in target} == {"PUT"}
    said = [text for text in caplog.messages if "not by the machine's role" in text]
    assert len(said) == 1
    assert "HTTP 403" in said[0]


async def test_a_machine_without_a_metadata_service_gets_signed_addresses(
    bucket, asked, run, tmp_path, monkeypatch
):
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:9")
    save(tmp_path / "first/jobs/one/checkpoints", 10)

    await mirrored(run, with_role(tmp_path / "first"))

    assert stored_steps(run) == [10]
    assert any(SIGNED in target for _, target, _ in asked)


@pytest.mark.parametrize("scheme", ["gs", "az"])
def test_google_and_azure_take_what_their_metadata_services_hand_out(scheme, metadata, tmp_path):
    (tmp_path / "here").write_bytes(b"abc")
    with Bearers() as store:
        role = CloudRole(scheme, {"endpoint": store.url, "account_name": "us"})
        url = role.address("models", "team/objects/abc")
        headers = {"x-ms-blob-type": "BlockBlob"} if scheme == "az" else {}

        send(tmp_path / "here", FACTS, url, headers, role=role)
        receive(tmp_path / "there", FACTS, url, role=role)

        assert (tmp_path / "there").read_bytes() == b"abc"
        with pytest.raises((LinkExpired, StoreError)):
            send(tmp_path / "here", FACTS, url, headers)


PLACES = {
    AWS: ("instance_profile", "s3://models/team"),
    GoogleCloud: ("service_account", "gs://models/team"),
    Azure: ("identity", "az://models/team"),
}


@pytest.mark.parametrize("kind", PLACES, ids=lambda kind: kind.provider_name)
def test_a_role_is_used_at_the_stores_of_its_own_cloud_alone(kind, monkeypatch):
    field, address = PLACES[kind]
    for name in ("AWS_ENDPOINT_URL_S3", "STORAGE_EMULATOR_HOST", "AZURE_STORAGE_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT", "us")
    at = functools.partial(kind(**{field: "trainer"}).role_at)
    others = [other for _, other in PLACES.values() if other != address]

    assert at(parse_store_url(address)) is not None
    assert [at(parse_store_url(other)) for other in [*others, "/mnt/models"]] == [None] * 3
    assert kind().role_at(parse_store_url(address)) is None


def test_a_store_that_only_speaks_as_amazons_does_is_shown_no_keys_of_a_role(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "https://x.r2.cloudflarestorage.com")

    assert AWS(instance_profile="trainer").role_at(parse_store_url("s3://models/team")) is None
