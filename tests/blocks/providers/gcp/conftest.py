"""A project at the local Google Cloud."""

import pytest

from blocks.providers import gcp
from blocks.providers.gcp import GoogleCloud, compute
from tests.blocks.providers.rented_account import quick_account
from tests.clouds.gcp import GoogleCloud as GoogleServer


@pytest.fixture
def cloud(tmp_path, monkeypatch):
    monkeypatch.setattr(compute, "ROW_SECONDS", 0.0)
    monkeypatch.setattr(compute, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(GoogleCloud, "_full", {})
    caches = "INSTANCES_SECONDS", "QUOTA_SECONDS"
    server = GoogleServer(tmp_path / "cloud")
    server.operation_seconds = server.delete_seconds = server.label_seconds = 0.02
    with quick_account(monkeypatch, server, GoogleCloud, gcp, *caches) as cloud:
        yield cloud
    assert cloud.contract.violations == []


@pytest.fixture
def provider(cloud):
    return GoogleCloud()
