"""An account at RunPod's local server."""

import pytest

from blocks.providers import runpod
from blocks.providers.runpod import RunPod
from tests.clouds.runpod import RunPodCloud


@pytest.fixture
def cloud(tmp_path, monkeypatch):
    monkeypatch.setattr(runpod, "LIST_SECONDS", 0.0)
    monkeypatch.setattr(runpod, "CREATE_SECONDS", 0.5)
    monkeypatch.setattr(RunPod, "settle_seconds", 1.0)
    with RunPodCloud(tmp_path / "cloud") as cloud:
        yield cloud
    assert cloud.errors == []
    assert cloud.contract.violations == []


@pytest.fixture
def provider(cloud):
    return RunPod(api_key=cloud.key, api_url=cloud.url)
