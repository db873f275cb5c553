"""What the tests of faulty APIs share besides fixtures."""

from __future__ import annotations

import re

import pytest

from blocks.providers.azure import Azure
from blocks.providers.gcp import GoogleCloud
from blocks.providers.lambda_cloud import LambdaCloud
from blocks.providers.runpod import RunPod
from blocks.providers.vast import VastAI

EVERYWHERE = pytest.mark.parametrize(
    "scene", ["runpod", "azure", "gcp", "lambda", "vast"], indirect=True
)
ELSEWHERE = pytest.mark.parametrize("scene", ["runpod", "lambda", "vast"], indirect=True)
"""Where a kind is tried in one place, and an account has funds."""

CREATES = {
    "azure": ("PUT", "/virtualMachines/[^/]+$"),
    "gcp": ("POST", "/zones/[^/]+/instances$"),
    "runpod": ("POST", "/v2/pods$"),
    "lambda": ("POST", "/launch$"),
    "vast": ("PUT", "/asks"),
}


LEDGERS = {
    "azure": Azure,
    "gcp": GoogleCloud,
    "runpod": RunPod,
    "lambda": LambdaCloud,
    "vast": VastAI,
}


def orders(scene):
    """Return how often a machine was ordered."""
    method, path = CREATES[scene.provider]
    calls = scene.cloud.calls().items()
    return sum(count for (m, p), count in calls if m == method and re.search(path, p))
