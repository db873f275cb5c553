"""Google Cloud: who we are to it, what we need there, and what `check` finds."""

import math
import re
from pathlib import Path

import pytest
from google.auth.compute_engine import _metadata

import blocks
from blocks.models import InstanceStatus
from blocks.providers.gcp import GoogleCloud
from tests.blocks.providers.gcp.gcp_account import launched
from tests.blocks.providers.rented_account import mark, until
from tests.clouds.cloud import Fault
from trainer.contract.errors import ConfigError, ConnectionLost, CredentialsError

PAGE = Path(blocks.__file__).parents[1] / "docs" / "gcp.md"


async def test_check_says_what_there_is_and_spends_nothing(cloud, provider, key):
    await launched(provider, key)
    before = len(cloud.all)

    said = await provider.check()

    assert re.fullmatch(
        r"local-project, 1 instance, room for 15 GPUs \(GPUS_ALL_REGIONS\), prices of [\d-]+", said
    )
    assert len(cloud.all) == before


@pytest.mark.parametrize(
    ("breaks", "kind", "words"),
    [
        (lambda no: no.networks.clear(), ConfigError, "GCP_NETWORK"),
        (lambda no: no.families.clear(), ConfigError, "GCP_IMAGE"),
        (lambda no: setattr(no, "disabled", True), CredentialsError, "enable compute.googleapis"),
        (lambda no: no.denied.add("instances.list"), CredentialsError, "compute.instances.list"),
    ],
    ids=["network", "image", "API", "role"],
)
async def test_check_names_what_is_missing(cloud, provider, breaks, kind, words):
    breaks(cloud.refusals)

    with pytest.raises(kind) as caught:
        await provider.check()

    assert words in str(caught.value)


async def test_the_role_on_the_page_is_what_a_whole_life_needs(cloud, provider, key, monkeypatch):
    monkeypatch.setenv("GCP_SSH_CIDR", "203.0.113.7/32")
    text = PAGE.read_text().partition("includedPermissions:")[2].partition("```")[0]
    granted = set(re.findall(r"compute\.\w+\.\w+", text))

    await provider.check()
    instance = await launched(provider, key)
    await provider.remark(instance.id, mark(2))
    cloud.leave_disk("us-central1-a/left", str(mark(3)), age=3600.0)
    await provider.sweep()
    await provider.terminate(instance.id)
    await until(provider, instance.id, InstanceStatus.GONE)

    assert cloud.used <= granted
    assert granted == cloud.used | {"compute.instances.setTags"}  # which the order has in its body
    assert cloud.contract.checked > 10


async def test_it_is_set_up_on_purpose_only(cloud, monkeypatch):
    assert GoogleCloud().is_configured()
    for value in ("", "0", "false"):
        monkeypatch.setenv("GCP_PROVIDER", value)
        assert not GoogleCloud().is_configured()
    assert GoogleCloud(credentials_json="{}").is_configured()


async def test_the_project_is_the_keys_own_where_none_is_set(cloud, monkeypatch):
    monkeypatch.delenv("GOOGLE_CLOUD_PROJECT")
    assert (await GoogleCloud().check()).startswith("local-project, ")
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS")

    with pytest.raises(CredentialsError, match="needs a project"):
        await GoogleCloud().check()


async def test_a_block_brings_its_own_key(cloud, monkeypatch, tmp_path):
    text = cloud.key_file.read_text()
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))

    assert await GoogleCloud(credentials_json=text).check()
    monkeypatch.setenv("GCP_CREDENTIALS", f"secret://file{cloud.key_file}")  # or its address
    assert await GoogleCloud().check()


async def test_a_token_serves_many_calls_and_is_replaced_before_it_ends(cloud, provider):
    await provider.instances()
    await provider.instances()
    assert cloud.identity.tokens == 1
    cloud.key = "another"  # which the first token is not of: it is refused, and replaced

    await provider.instances()
    assert cloud.identity.tokens == 2
    cloud.identity.token_seconds, cloud.key = 290, "a third"  # less than five minutes

    await provider.instances()
    await provider.instances()
    assert cloud.identity.tokens == 4


async def test_the_metadata_server_of_a_machine_gives_tokens_too(cloud, monkeypatch, tmp_path):
    host = cloud.url.removeprefix("http://").partition("/")[0]
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS")
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setenv("GCE_METADATA_HOST", host)
    monkeypatch.setattr(_metadata, "_GCE_METADATA_HOST", host)  # read when it is imported
    monkeypatch.setenv("GCE_METADATA_IP", host)

    assert await GoogleCloud().instances() == []
    assert cloud.identity.tokens == 1


@pytest.mark.parametrize("text", ["", "{", "[]", '{"type": "service_account"}', "{}"])
async def test_a_key_file_that_is_none_is_said(cloud, monkeypatch, tmp_path, text):
    path = tmp_path / "key.json"
    path.write_text(text)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))

    with pytest.raises(CredentialsError) as caught:
        await GoogleCloud().instances()

    assert "GOOGLE_APPLICATION_CREDENTIALS" in caught.value.suggestion


async def test_a_revoked_key_is_said_with_how_to_set_another(cloud, provider):
    cloud.expired = True

    with pytest.raises(CredentialsError, match="invalid_grant") as caught:
        await provider.instances()

    assert "GOOGLE_APPLICATION_CREDENTIALS" in caught.value.suggestion


async def test_a_token_endpoint_that_is_away_is_a_lost_connection(cloud, provider):
    cloud.faults.add(Fault(kind="drop", path="/token$", times=math.inf))

    with pytest.raises(ConnectionLost, match="no token can be fetched"):
        await provider.instances()
    cloud.faults.clear()

    assert await provider.instances() == []


async def test_a_zone_that_has_no_machine_is_named(provider, monkeypatch):
    monkeypatch.setenv("GCP_ZONES", "us-central1-a,us-moon1-a")

    with pytest.raises(ConfigError, match="no machine is known in us-moon1-a"):
        await provider.check()


@pytest.mark.parametrize(
    ("name", "value"),
    [("GCP_SSH_PORT", "ssh"), ("GCP_SSH_PORT", "70000"), ("GCP_SSH_CIDR", "203.0.113.7/8")],
)
async def test_a_setting_that_is_none_is_named_and_nothing_is_ordered(
    cloud, provider, key, monkeypatch, name, value
):
    monkeypatch.setenv(name, value)

    for use in (provider.check(), launched(provider, key)):
        with pytest.raises(ConfigError, match=f"{name} = '{value}'"):
            await use

    assert cloud.all == []
