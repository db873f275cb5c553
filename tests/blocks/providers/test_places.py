"""A place that is taken out of the settings hides no machine."""

from __future__ import annotations

import dataclasses

import pytest

from blocks.providers import boto
from blocks.providers.aws import AWS
from blocks.providers.azure import Azure
from blocks.providers.gcp import GoogleCloud
from tests.blocks.providers.contract.conftest import hurry
from tests.blocks.providers.rented_account import mark
from tests.clouds.aws import AwsCloud
from tests.clouds.azure import AzureCloud
from tests.clouds.gcp import GoogleCloud as LocalGoogle
from trainer.config import Limits, Resources

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIExample us"


@pytest.fixture
def account(request, tmp_path, monkeypatch):
    """Open one, and return it with its provider."""
    kind, block = request.param
    hurry(block, monkeypatch)
    with kind(tmp_path / "cloud") as cloud:
        cloud.sshd_never = True
        if hasattr(cloud, "rates"):
            cloud.rates.factor = 0.0
        for name, value in cloud.environ().items():
            monkeypatch.setenv(name, value)
        boto.forget()
        yield cloud, block()
    assert cloud.errors == []


async def hired(provider, **resources):
    offer = (await provider.offers(Resources(gpu_count=1, **resources), Limits()))[0]
    return await provider.launch(dataclasses.replace(offer), mark(), KEY)


@pytest.mark.parametrize("account", [(AwsCloud, AWS)], indirect=True)
async def test_a_region_that_is_set_no_more_is_looked_at_for_what_is_left(account, monkeypatch):
    cloud, provider = account
    monkeypatch.setenv("AWS_REGIONS", "eu-central-1")
    instance = await hired(provider)
    monkeypatch.setenv("AWS_REGIONS", "us-east-1")

    assert [one.id for one in await provider.instances()] == [instance.id]
    assert (await provider.find(mark())).id == instance.id
    assert {offer.region for offer in await provider.offers(Resources(gpu_count=1), Limits())} == {
        "us-east-1"
    }

    # One that is closed to us is no reason to see nothing of the others.
    del cloud.regions["eu-central-1"]
    assert await provider.instances() == []


@pytest.mark.parametrize("account", [(AzureCloud, Azure)], indirect=True)
async def test_a_group_that_is_set_no_more_is_looked_at_for_what_is_left(account, monkeypatch):
    _, provider = account
    instance = await hired(provider)
    monkeypatch.setenv("AZURE_RESOURCE_GROUP", "another")

    assert [one.id for one in await provider.instances()] == [instance.id]
    assert (await provider.find(mark())).id == instance.id


@pytest.mark.parametrize("account", [(LocalGoogle, GoogleCloud)], indirect=True)
async def test_a_project_that_is_set_no_more_is_named(account, monkeypatch, caplog):
    cloud, provider = account
    await hired(provider)
    assert len(await provider.instances()) == 1
    assert cloud.project not in caplog.text
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "another-project")

    try:
        await provider.instances()
    finally:
        assert f"Machines may be left in project {cloud.project}" in caplog.text
