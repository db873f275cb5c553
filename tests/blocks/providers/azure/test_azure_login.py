"""Who logs in to Azure, and what is said when that fails."""

import asyncio
import sys

import pytest

from blocks.providers import api
from blocks.providers.azure import Azure, login
from tests.blocks.providers.azure.azure_account import launched, offers
from trainer.contract.errors import (
    ConfigError,
    ConnectionLost,
    CredentialsError,
    DependencyError,
)


async def test_one_token_serves_many_calls_and_is_fetched_anew_before_it_ends(cloud, provider):
    cloud.entra.lasts = 100  # less than the five minutes before its end, so of use once
    await asyncio.gather(*(provider.instances() for _ in range(3)))
    many = cloud.entra.asked
    cloud.entra.lasts = 3600
    await provider.instances()
    once = cloud.entra.asked
    await provider.instances()

    assert many >= 1
    assert cloud.entra.asked == once


async def test_a_token_that_was_revoked_is_replaced_and_the_call_made_again(cloud, provider, key):
    await provider.instances()
    cloud.entra.tokens.clear()

    instance = await launched(provider, key)

    assert cloud.alive() == [instance.id]
    assert cloud.entra.asked == 2


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("AZURE_CLIENT_SECRET", "wrong", "client secret is wrong (AADSTS7000215)"),
        ("AZURE_CLIENT_ID", "00000000-0000-0000-0000-000000000001", "AADSTS700016"),
        ("AZURE_TENANT_ID", "00000000-0000-0000-0000-000000000002", "AADSTS90002"),
    ],
)
async def test_a_login_that_is_refused_is_explained(
    cloud, provider, monkeypatch, variable, value, words
):
    monkeypatch.setenv(variable, value)

    with pytest.raises(CredentialsError) as caught:
        await provider.check()

    assert words in caught.value.message
    assert "AZURE_CLIENT_SECRET" in caught.value.suggestion
    assert cloud.requests == []


async def test_a_secret_that_has_expired_is_said_so(cloud, provider):
    cloud.expired = True

    with pytest.raises(CredentialsError, match=r"secret has expired \(AADSTS7000222\)"):
        await provider.instances()


async def test_a_saved_account_logs_in_by_its_own_secret(cloud, monkeypatch):
    monkeypatch.delenv("AZURE_CLIENT_SECRET")
    saved = Azure(
        tenant_id=cloud.entra.tenant, client_id=cloud.entra.client, client_secret=cloud.key
    )

    assert await saved.instances() == []
    assert cloud.key not in repr(saved)


async def test_the_secret_may_be_kept_in_a_file(cloud, provider, monkeypatch, tmp_path):
    kept = tmp_path / "secret"
    kept.touch(0o600)
    kept.write_text(f"{cloud.key}\n")
    monkeypatch.delenv("AZURE_CLIENT_SECRET")
    monkeypatch.setenv("AZURE_CLIENT_SECRET_FILE", str(kept))

    assert await provider.instances() == []


async def test_entra_that_is_away_is_waited_for_and_nothing_is_ordered_meanwhile(
    cloud, provider, monkeypatch
):
    monkeypatch.setattr(api, "PAUSES", (0.01,))
    cloud.entra.away = True

    with pytest.raises(ConnectionLost, match="no token"):
        await provider.instances()

    cloud.entra.away = False
    assert (await offers(provider))[0].provider == "azure"


async def test_without_azure_identity_it_is_said_what_to_install(cloud, provider, monkeypatch):
    monkeypatch.setitem(sys.modules, "azure.identity", None)

    with pytest.raises(DependencyError) as caught:
        await provider.instances()

    assert caught.value.suggestion == "pip install 'training-orchestrator[azure]'"


def test_no_login_on_this_computer_is_said_in_one_sentence():
    error = login._refused("DefaultAzureCredential failed to retrieve a token\nX: y\nZ: w")

    assert error.message == "Azure: azure-identity finds no login on this computer."


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("AZURE_SUBSCRIPTION_ID", "", "subscription_id = ''"),
        ("AZURE_SUBSCRIPTION_ID", "/subscriptions/5", "subscription_id = '/subscriptions/5'"),
        ("AZURE_RESOURCE_GROUP", "/a/b", "resource_group = '/a/b'"),
        ("AZURE_LOCATIONS", " ", "no location is set"),
        ("AZURE_SSH_FROM", "", "AZURE_SSH_FROM is not set"),
        ("AZURE_SSH_FROM", "10.0.0.1/8", "ssh_from = '10.0.0.1/8' is not a network"),
        ("AZURE_IMAGE", "ubuntu", "image = 'ubuntu' is not publisher:offer:sku:version"),
        ("AZURE_LOCATIONS", "West Europe", "location 'west europe' is not a name"),
        ("AZURE_LOCATIONS", "nowhere", "AZURE_LOCATIONS: 'nowhere' has no size"),
        ("AZURE_SSH_USER", "a;b", "ssh_user = 'a;b'"),
        ("AZURE_SSH_PORT", "ssh", "AZURE_SSH_PORT = 'ssh'"),
        ("AZURE_AUTHORITY_HOST", "http://x", "http://x"),
    ],
)
async def test_a_setting_that_cannot_be_used_is_named(
    provider, monkeypatch, variable, value, words
):
    monkeypatch.setenv(variable, value)

    with pytest.raises(ConfigError) as caught:
        await provider.check()

    assert words in caught.value.message
    assert caught.value.suggestion


@pytest.mark.parametrize(("value", "on"), [("1", True), ("true", True), ("0", False), ("", False)])
def test_it_is_switched_on_on_purpose(monkeypatch, value, on):
    monkeypatch.setenv("AZURE_PROVIDER", value)
    monkeypatch.setenv("AZURE_CLIENT_SECRET", "set for something else")

    assert Azure().is_configured() is on
