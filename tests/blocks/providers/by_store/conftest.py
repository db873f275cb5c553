"""Accounts whose machines are reached through a bucket."""

from __future__ import annotations

import pytest

from blocks.providers import boto
from blocks.providers.aws import AWS
from blocks.providers.azure import Azure
from blocks.providers.gcp import GoogleCloud
from tests.blocks.providers.contract.conftest import hurry
from tests.clouds.private import PrivateAws, PrivateAzure, PrivateGoogle

KINDS = {
    "aws": (PrivateAws, AWS),
    "azure": (PrivateAzure, Azure),
    "gcp": (PrivateGoogle, GoogleCloud),
}


@pytest.fixture
def cloud(request, tmp_path, monkeypatch):
    """Serve one; its machines run their first script, unless `sshd_never` is set."""
    kind, block = KINDS[request.param]
    hurry(block, monkeypatch)
    with kind(tmp_path / "cloud") as cloud:
        cloud.boot_seconds = 0.05
        if hasattr(cloud, "rates"):
            cloud.rates.factor = 0.0
        for name, value in cloud.environ().items():
            monkeypatch.setenv(name, value)
        boto.forget()
        yield cloud
    assert cloud.errors == []


@pytest.fixture
def provider(cloud):
    return dict(KINDS.values())[type(cloud)]()
