"""Quick answers, so that faults of an API are soon over."""

from __future__ import annotations

import pytest

from blocks.providers.azure import reading
from blocks.providers.lambda_cloud import LambdaCloud
from blocks.providers.vast import VastAI
from tests.faults.api.api_trouble import LEDGERS


@pytest.fixture(autouse=True)
def quick(scene, monkeypatch):
    """Scale the providers' seconds down: those between two calls, and until a list is complete."""
    monkeypatch.setattr(VastAI, "intervals", {})
    monkeypatch.setattr(LambdaCloud, "intervals", {}, raising=False)
    monkeypatch.setattr(reading, "LIST_SECONDS", 2.0)
    for provider in LEDGERS.values():
        monkeypatch.setattr(provider, "settle_seconds", 2.0)
    if hasattr(scene.cloud, "rates"):
        scene.cloud.rates.factor = 0.0
