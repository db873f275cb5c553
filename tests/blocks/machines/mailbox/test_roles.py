"""A mailbox by the machine's own role: what the metadata service hands out, and what a store takes."""

from __future__ import annotations

import subprocess
import sys

import pytest

from blocks.machines.mailbox.agent.roles import ByRole
from blocks.machines.mailbox.packing import packed, start_script
from tests.blocks.machines.mailbox.test_mailbox import USER_DATA_LIMIT
from tests.clouds.metadata import Bearers
from tests.clouds.plain_s3 import PlainS3


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
    assert ByRole(url, options).address("in/0") == f"{base}/m/in/0"


def test_no_metadata_service_is_an_error_that_an_agent_waits_out(monkeypatch):
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:9")
    box = ByRole("s3://models/m", {})

    with pytest.raises(box.errors):
        box.get("alive")


def test_an_agent_with_a_role_is_whole_and_fits_into_a_first_script(tmp_path):
    (tmp_path / "agent.pyz").write_bytes(packed("roles"))
    script = start_script("s3://models/m", {"role": True, "region": "eu-west-1"})
    where = "blocks.machines.mailbox.agent.roles"
    program = f"import sys; sys.path.insert(0, sys.argv[1]); import {where} as r; print(r.__file__)"

    found = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program, tmp_path / "agent.pyz"],
        capture_output=True,
        text=True,
        check=True,
    )

    assert found.stdout.startswith(f"{tmp_path}/agent.pyz/")
    assert len(script) < USER_DATA_LIMIT - (2 << 10)
