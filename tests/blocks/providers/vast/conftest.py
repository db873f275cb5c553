"""An account at Vast.ai's local server."""

import pytest

from blocks.providers import vast
from blocks.providers.vast import VastAI
from tests.blocks.providers.rented_account import quick_account
from tests.clouds.vast import VastCloud


@pytest.fixture
def cloud(tmp_path, monkeypatch):
    caches = "SEARCH_SECONDS", "INSTANCES_SECONDS"
    server = VastCloud(tmp_path / "cloud")
    with quick_account(monkeypatch, server, VastAI, vast, *caches) as cloud:
        yield cloud


@pytest.fixture
def provider(cloud):
    return VastAI()
