"""An account at Vast.ai's local server."""

import pytest
from vast_account import NAME

from blocks.keys import MachineKeys
from blocks.providers import api, vast
from blocks.providers.vast import VastAI
from tests.clouds.vast import VastCloud


@pytest.fixture
def cloud(tmp_path, monkeypatch):
    monkeypatch.setattr(VastAI, "intervals", {})
    monkeypatch.setattr(VastAI, "settle_seconds", 0.6)
    for name in ("SEARCH_SECONDS", "INSTANCES_SECONDS"):
        monkeypatch.setattr(vast, name, 0.0)
    monkeypatch.setattr(api, "PAUSES", (0.01, 0.02))
    monkeypatch.setattr(api, "RATE_PAUSE", 0.1)
    with VastCloud(tmp_path / "cloud") as cloud:
        cloud.rates.factor = 0.0
        cloud.boot_seconds = 0.1
        cloud.sshd_never = True
        for name, value in cloud.environ().items():
            monkeypatch.setenv(name, value)
        yield cloud
    assert cloud.errors == []


@pytest.fixture
def provider(cloud):
    return VastAI()


@pytest.fixture
def key():
    return MachineKeys(NAME).public_key()
