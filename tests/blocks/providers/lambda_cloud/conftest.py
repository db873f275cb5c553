"""An account at Lambda Cloud's local server."""

import pytest

from blocks.providers import lambda_cloud
from blocks.providers.lambda_cloud import LambdaCloud
from tests.blocks.providers.rented_account import quick_account
from tests.clouds.lambda_cloud import LambdaCloud as LambdaServer


@pytest.fixture
def cloud(tmp_path, monkeypatch):
    caches = "TYPES_SECONDS", "INSTANCES_SECONDS"
    server = LambdaServer(tmp_path / "cloud")
    with quick_account(monkeypatch, server, LambdaCloud, lambda_cloud, *caches) as cloud:
        yield cloud


@pytest.fixture
def provider(cloud):
    return LambdaCloud()
