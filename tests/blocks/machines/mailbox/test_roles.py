"""A mailbox by the machine's own role: what the metadata service hands out, and what a store takes."""

from __future__ import annotations

import json

import pytest

from blocks.machines.mailbox.agent.roles import ByRole
from tests.clouds.plain_s3 import PlainS3
from tests.clouds.store_wire import LocalStoreServer, Said


class Metadata(LocalStoreServer):
    """The metadata services of all three clouds."""

    def __init__(self) -> None:
        super().__init__()
        self.keys = {"Token": "session/+="}

    def answer(self, asked):
        if asked.path == "/latest/api/token":
            return Said(200 if asked.method == "PUT" else 405, b"T")
        if asked.path.startswith("/latest/meta-data/iam/security-credentials/"):
            if asked.headers.get("x-aws-ec2-metadata-token") != "T":
                return Said(401)
            role = asked.path.rpartition("/")[2]
            return Said(200, json.dumps(self.keys).encode() if role == "trainer" else b"trainer")
        flavours = {"metadata-flavor": "Google", "metadata": "true"}
        if any(asked.headers.get(name) == value for name, value in flavours.items()):
            return Said(200, b'{"access_token": "bearer-1"}')
        return Said(403)


class Bearers(LocalStoreServer):
    """A store that takes a token."""

    def __init__(self) -> None:
        super().__init__()
        self.kept = {}

    def answer(self, asked):
        if asked.headers.get("authorization") != "Bearer bearer-1":
            return Said(401)
        if asked.method == "PUT":
            self.kept[asked.path] = asked.body, asked.headers
        elif asked.method == "DELETE":
            return Said(204 if self.kept.pop(asked.path, None) else 404)
        elif asked.path not in self.kept:
            return Said(404)
        return Said(200, self.kept[asked.path][0])


@pytest.fixture
def metadata(monkeypatch):
    with Metadata() as server:
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", server.url + "/")
        monkeypatch.setenv("GCE_METADATA_HOST", server.url.removeprefix("http://"))
        monkeypatch.setenv("AZURE_IMDS_URL", server.url)
        yield server


def is_a_box(box):
    """Hold a box to what an agent needs."""
    assert box.get("in/0000000000") is None
    box.put("in/0000000000", b"a command\n\0")
    box.put("in/0000000000", b"")
    box.put("out/0000000000", b"x" * 70_000)
    assert box.get("in/0000000000") == b""
    assert box.get("out/0000000000") == b"x" * 70_000
    box.remove("out/0000000000")
    box.remove("out/0000000000")
    assert box.get("out/0000000000") is None


def test_s3_by_the_keys_of_an_instance_profile(metadata):
    with PlainS3("models") as s3:
        metadata.keys |= {"AccessKeyId": s3.key_id, "SecretAccessKey": s3.secret}
        options = {"endpoint": s3.url, "region": "eu-west-1"}

        is_a_box(ByRole("s3://models/mail boxes/one", options))

        assert s3.keys() == ["mail boxes/one/in/0000000000"]
        assert s3.errors == []


def test_keys_that_were_replaced_are_asked_for_again(metadata):
    with PlainS3("models") as s3:
        metadata.keys |= {"AccessKeyId": s3.key_id, "SecretAccessKey": "of yesterday"}
        box = ByRole("s3://models/m", {"endpoint": s3.url, "region": "eu-west-1"})
        with pytest.raises(OSError, match="PUT alive is answered with HTTP 403"):
            box.put("alive", b"1")
        metadata.keys["SecretAccessKey"] = s3.secret

        box.put("alive", b"1")

        assert s3.content("m/alive") == b"1"


@pytest.mark.parametrize("scheme", ["gs", "az"])
def test_google_and_azure_by_a_token(metadata, scheme):
    with Bearers() as store:
        box = ByRole(f"{scheme}://models/m", {"endpoint": store.url, "account_name": "us"})

        is_a_box(box)

        [(path, (_, headers))] = store.kept.items()
        assert path == "/models/m/in/0000000000"
        assert (headers.get("x-ms-blob-type") == "BlockBlob") == (scheme == "az")


@pytest.mark.parametrize(
    ("url", "options", "base"),
    [
        ("s3://models/m", {"region": "eu-west-1"}, "https://models.s3.eu-west-1.amazonaws.com"),
        ("s3://our.models/m", {}, "https://s3.us-east-1.amazonaws.com/our.models"),
        ("gs://models/m", {}, "https://storage.googleapis.com/models"),
        ("az://models/m", {"account_name": "us"}, "https://us.blob.core.windows.net/models"),
    ],
)
def test_each_cloud_is_asked_at_its_own_address(url, options, base):
    assert ByRole(url, options)._base() == base


def test_no_metadata_service_is_an_error_that_an_agent_waits_out(monkeypatch):
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:9")
    box = ByRole("s3://models/m", {})

    with pytest.raises(box.errors):
        box.get("alive")
