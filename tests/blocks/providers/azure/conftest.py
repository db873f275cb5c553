"""A subscription at Azure's local server."""

import pytest

from blocks.providers import api
from blocks.providers.azure import Azure, market, network, reading
from tests.clouds.azure import AzureCloud


@pytest.fixture
def cloud(tmp_path, monkeypatch):
    monkeypatch.setattr(Azure, "settle_seconds", 0.6)
    monkeypatch.setattr(api, "PAUSES", (0.01, 0.02))
    monkeypatch.setattr(api, "RATE_PAUSE", 0.1)
    for module, name in (
        (reading, "LIST_SECONDS"),
        (market, "QUOTA_SECONDS"),
        (market, "SIZES_SECONDS"),
        (network, "LOOK_SECONDS"),
    ):
        monkeypatch.setattr(module, name, 0.0)
    with AzureCloud(tmp_path / "cloud") as cloud:
        cloud.boot_seconds, cloud.deleting_seconds, cloud.sshd_never = 0.05, 0.02, True
        for name, value in cloud.environ().items():
            monkeypatch.setenv(name, value)
        yield cloud
    assert cloud.errors == []


@pytest.fixture
def provider(cloud):
    return Azure()
