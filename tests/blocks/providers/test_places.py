"""A place that is taken out of the settings hides no machine."""

from __future__ import annotations

import dataclasses

import httpx
import pytest

from blocks.providers import boto
from blocks.providers.api import Answer
from blocks.providers.aws import AWS
from blocks.providers.azure import Azure
from blocks.providers.gcp import GoogleCloud
from blocks.providers.gcp.access import GoogleApi
from tests.blocks.providers.contract.conftest import hurry
from tests.blocks.providers.rented_account import mark, true
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
async def test_a_project_that_is_set_no_more_is_looked_at_for_what_is_left(account, monkeypatch):
    cloud, provider = account
    instance = await hired(provider)
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "another-project")
    theirs = cloud.project_url.rpartition("/")[2]
    answer = GoogleApi.call

    async def call(api, method, path, **options):
        # The local one has a single project: the other has nothing in it.
        if "/another-project/aggregated/" in path:
            zones = {"zones/us-central1-a": {"warning": {"code": "NO_RESULTS_ON_PAGE"}}}
            return Answer(status=200, data={"items": zones}, headers=httpx.Headers())
        if "/another-project/" in path:
            return Answer(status=404, data={}, headers=httpx.Headers())
        return await answer(api, method, path, **options)

    monkeypatch.setattr(GoogleApi, "call", call)

    assert cloud.project == theirs
    assert [one.id for one in await provider.instances()] == [instance.id]
    assert (await provider.find(mark())).id == instance.id
    assert (await provider.describe(instance.id)).mark == mark()
    assert await provider.remark(instance.id, mark(2))
    assert await provider.terminate(instance.id)
    await true(lambda: not cloud.alive())
