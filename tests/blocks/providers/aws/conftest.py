"""An account at the local AWS."""

import pytest

from blocks.providers import aws, boto
from blocks.providers.aws import AWS, network, offers, ordering, prices
from tests.blocks.providers.rented_account import quick_account
from tests.clouds.aws import AwsCloud


@pytest.fixture
def cloud(tmp_path, monkeypatch):
    for module, names in {
        network: ["PLACES_SECONDS"],
        offers: ["OFFERINGS_SECONDS", "QUOTA_SECONDS"],
        ordering: ["IMAGE_SECONDS"],
        prices: ["SPOT_SECONDS", "AGAIN_SECONDS", "DAY"],
    }.items():
        for name in names:
            monkeypatch.setattr(module, name, 0.0)
    server = AwsCloud(tmp_path / "cloud")
    with quick_account(monkeypatch, server, AWS, aws, "INSTANCES_SECONDS") as cloud:
        boto.forget()
        yield cloud


@pytest.fixture
def provider(cloud):
    return AWS()
