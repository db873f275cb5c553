"""What differs between kinds of stores: keys, rights, signed addresses, and what each says when it refuses."""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from blocks.stores import access
from blocks.stores.access import Access
from blocks.stores.block import StoreBlock
from blocks.stores.bucket import Bucket
from blocks.stores.opening import open_bucket
from tests.clouds.blob import ACCOUNT, KEY, BlobServer
from tests.clouds.s3 import SECRET
from tests.clouds.store_wire import StoreFault
from trainer.config.store_urls import parse_store_url
from trainer.contract.errors import LinkExpired, StoreAway, StoreError
from trainer.courier.carrying import receive, send

ADDRESSES = {"s3": "s3://models/team", "google": "gs://models/team", "azure": "az://models/team"}
KINDS = pytest.mark.parametrize("kind", ADDRESSES)
CONTENT = b"by a signed address" * 1000
FACTS = {"bytes": len(CONTENT), "sha256": hashlib.sha256(CONTENT).hexdigest()}


@pytest.fixture
def server(kind, request):
    return request.getfixturevalue(kind)


@KINDS
async def test_a_machine_without_a_key_sends_and_fetches_by_signed_addresses(
    kind, server, tmp_path
):
    bucket = await open_bucket(ADDRESSES[kind])
    [put] = await bucket.sign("PUT", ["objects/0f"], 60)
    [get] = await bucket.sign("GET", ["objects/0f"], 60)
    source = tmp_path / "source"
    source.write_bytes(CONTENT)

    await asyncio.to_thread(send, source, FACTS, put, bucket.put_headers)
    await asyncio.to_thread(receive, tmp_path / "target", FACTS, get)

    assert server.content("team/objects/0f") == CONTENT
    assert (tmp_path / "target").read_bytes() == CONTENT


@KINDS
async def test_a_signed_address_permits_one_thing_for_a_while(kind, server, tmp_path):
    bucket = await open_bucket(ADDRESSES[kind])
    await bucket.put("x", CONTENT)
    [get] = await bucket.sign("GET", ["x"], 60)

    async with httpx.AsyncClient() as client:
        other = get.replace("/x?", "/y?")
        assert (await client.get(other)).status_code in {400, 403}
        put = await client.put(get, content=b"1", headers=bucket.put_headers)
        assert put.status_code in {400, 403}
    server.now = lambda: datetime.now(UTC) + timedelta(minutes=2)
    with pytest.raises(LinkExpired):
        await asyncio.to_thread(receive, tmp_path / "target", FACTS, get)


WRONG = {
    "s3": {"AWS_SECRET_ACCESS_KEY": "wrong"},
    "azure": {
        "AZURE_STORAGE_CONNECTION_STRING": f"AccountName={ACCOUNT};AccountKey=d3Jvbmc=;BlobEndpoint="
    },
}


@pytest.mark.parametrize(
    ("kind", "says"), [("s3", "AWS_ACCESS_KEY_ID"), ("azure", "AZURE_STORAGE_KEY")]
)
async def test_a_wrong_key_is_said_with_its_remedy(kind, says, server, monkeypatch):
    for name, value in WRONG[kind].items():
        monkeypatch.setenv(name, value + (f"{server.url}/{ACCOUNT}" if kind == "azure" else ""))
    bucket = await open_bucket(ADDRESSES[kind])

    with pytest.raises(StoreError, match="the key is refused") as caught:
        await bucket.put("x", b"1")
    assert says in caught.value.suggestion


async def test_a_key_of_another_account_is_said_with_its_remedy(google, tmp_path, monkeypatch):
    from tests.clouds.gcs import GoogleStoreServer

    other = tmp_path / "other.json"
    with GoogleStoreServer() as another:
        other.write_text(another.credentials())
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(other))
    bucket = await open_bucket("gs://models")

    with pytest.raises(StoreError, match="the key is refused: AuthenticationRequired") as caught:
        await bucket.put("x", b"1")
    assert "GOOGLE_APPLICATION_CREDENTIALS" in caught.value.suggestion


RIGHTS = {
    "s3": "s3:PutObject",
    "google": "storage.objects.create",
    "azure": "Storage Blob Data Contributor",
}


@KINDS
async def test_a_missing_right_is_named_as_the_store_names_it(kind, server):
    server.denied = {"PUT"}
    bucket = await open_bucket(ADDRESSES[kind])

    with pytest.raises(StoreError, match=rf"{ADDRESSES[kind]}: cannot write x: A\w+, ") as caught:
        await bucket.put("x", b"1")
    assert f"Allow {RIGHTS[kind]}" in caught.value.suggestion


@KINDS
async def test_a_missing_bucket_is_said_with_how_to_make_it(kind, server):
    bucket = await open_bucket(ADDRESSES[kind].replace("models", "modles"))

    with pytest.raises(StoreError, match="there is no such bucket") as caught:
        await bucket.put("x", b"1")
    assert "modles" in caught.value.suggestion


@KINDS
async def test_a_busy_store_is_asked_again(kind, server):
    bucket = await open_bucket(ADDRESSES[kind])
    busy = server.refused(503, "ServerBusy", "The server is busy.")
    server.faults.append(StoreFault("PUT", "/x", times=2, answer=busy))

    await bucket.put("x", b"1")

    assert server.content("team/x") == b"1"


@pytest.mark.parametrize("kind", ["s3", "azure"])
async def test_only_the_version_that_was_read_is_replaced(kind, server):
    bucket = await open_bucket(ADDRESSES[kind])
    await bucket.put("state", b"1")
    _, version = await bucket.get_version("state")

    assert await bucket.replace("state", b"2", version)
    assert not await bucket.replace("state", b"3", version)
    assert await bucket.get("state") == b"2"


async def test_a_block_holds_address_endpoint_and_key(azure, monkeypatch):
    monkeypatch.delenv("AZURE_STORAGE_CONNECTION_STRING")
    block = StoreBlock(
        url="az://models/team", endpoint=f"{azure.url}/{ACCOUNT}", key_id=ACCOUNT, secret=KEY
    )

    await Bucket.at(*block.place()).put("x", b"1")

    assert azure.content("team/x") == b"1"
    with pytest.raises(ValueError, match="cannot name another one"):
        StoreBlock(url="block://other")


async def test_a_block_is_remembered_while_prefect_is_away(azure, monkeypatch):
    block = StoreBlock(
        url="az://models/team", endpoint=f"{azure.url}/{ACCOUNT}", key_id=ACCOUNT, secret=KEY
    )
    monkeypatch.setattr("blocks.stores.opening._loaded", {})

    async def away(name: str) -> StoreBlock:
        raise httpx.ConnectError("refused")

    async def there(name: str) -> StoreBlock:
        return block

    monkeypatch.setattr(StoreBlock, "aload", away)
    with pytest.raises(StoreAway, match="block://mine/runs': Prefect cannot be reached"):
        await open_bucket("block://mine/runs")
    monkeypatch.setattr(StoreBlock, "aload", there)
    await open_bucket("block://mine/runs")
    monkeypatch.setattr(StoreBlock, "aload", away)
    await (await open_bucket("block://mine/runs")).put("x", b"1")

    assert azure.names() == ["team/runs/x"]


async def test_keys_are_read_wherever_secrets_are_kept(s3, tmp_path, monkeypatch):
    key = tmp_path / "key"
    key.write_text(SECRET)
    key.chmod(0o600)
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY_FILE", str(key))
    await (await open_bucket("s3://models")).put("x", b"1")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY_FILE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", f"secret://file{key}")

    await (await open_bucket("s3://models")).put("y", b"1")

    assert s3.names() == ["x", "y"]


async def test_a_key_that_is_replaced_where_it_is_kept_opens_the_store_on(
    s3, tmp_path, monkeypatch
):
    key = tmp_path / "key"
    key.write_text("no longer the one")
    key.chmod(0o600)
    monkeypatch.setattr(access, "KEY_SECONDS", 0.0)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", f"secret://file{key}")
    bucket = await open_bucket("s3://models")
    with pytest.raises(StoreError, match="SignatureDoesNotMatch"):
        await bucket.put("x", b"1")

    key.write_text(SECRET)
    await bucket.put("x", b"1")

    assert s3.names() == ["x"]


async def test_a_key_of_google_is_read_wherever_secrets_are_kept(google, tmp_path, monkeypatch):
    key = tmp_path / "google.json"
    key.chmod(0o600)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", f"secret://file{key}")

    await (await open_bucket("gs://models")).put("x", b"1")

    assert google.names() == ["x"]


def nobody(*_: object, **__: object) -> None:
    raise ConnectionRefusedError


@KINDS
async def test_without_credentials_it_says_so_at_once(kind, monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith(("AWS_", "GOOGLE_", "AZURE_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("GCE_METADATA_HOST", "127.0.0.1:9")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT", ACCOUNT)
    monkeypatch.setitem(sys.modules, "obstore.auth.azure", None)
    monkeypatch.setattr("blocks.stores.access.socket.create_connection", nobody)

    with pytest.raises(StoreError, match="no credentials are set") as caught:
        await open_bucket(ADDRESSES[kind])
    assert caught.value.suggestion.startswith("Set A" if kind != "google" else "Set GOOGLE")


async def test_a_bucket_in_another_region_is_said_to_be_there(s3):
    bucket = await open_bucket("s3://models")
    s3.faults.append(StoreFault("PUT", "/x", answer=s3.refused(301, "PermanentRedirect")))

    with pytest.raises(StoreError, match="the bucket lies in another region") as caught:
        await bucket.put("x", b"1")
    assert "AWS_REGION" in caught.value.suggestion


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "obstore", None)

    with pytest.raises(Exception, match=r"training-orchestrator\[store\]"):
        Bucket.at(parse_store_url("s3://models"), Access())


async def test_no_secret_of_an_address_stands_in_an_error(monkeypatch):
    with BlobServer() as server:
        url = f"{server.url}/{ACCOUNT}"
    monkeypatch.setattr("blocks.stores.bucket.SMALL_SECONDS", 0.2)
    shared = "sv=2024-01-01&sig=SECRETSECRET"
    access = Access(endpoint=url, key_id=ACCOUNT, secret=shared)
    bucket = Bucket.at(parse_store_url("az://models"), access)

    with pytest.raises(StoreError) as caught:
        await bucket.get("x")
    assert "SECRET" not in str(caught.value)
