"""An account at Lambda Cloud's local server."""

import pytest
from lambda_account import NAME

from blocks.keys import MachineKeys
from blocks.providers import api, lambda_cloud
from blocks.providers.lambda_cloud import LambdaCloud
from tests.clouds.lambda_cloud import LambdaCloud as LambdaServer


@pytest.fixture
def cloud(tmp_path, monkeypatch):
    monkeypatch.setattr(LambdaCloud, "intervals", {})
    monkeypatch.setattr(LambdaCloud, "settle_seconds", 0.6)
    for name in ("TYPES_SECONDS", "INSTANCES_SECONDS"):
        monkeypatch.setattr(lambda_cloud, name, 0.0)
    monkeypatch.setattr(api, "PAUSES", (0.01, 0.02))
    monkeypatch.setattr(api, "RATE_PAUSE", 0.1)
    with LambdaServer(tmp_path / "cloud") as cloud:
        cloud.rates.factor = 0.0
        cloud.boot_seconds = 0.1
        cloud.sshd_never = True
        for name, value in cloud.environ().items():
            monkeypatch.setenv(name, value)
        yield cloud
    assert cloud.errors == []


@pytest.fixture
def provider(cloud):
    return LambdaCloud()


@pytest.fixture
def key():
    return MachineKeys(NAME).public_key()
