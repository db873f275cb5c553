"""An account at SageMaker's local server."""

from __future__ import annotations

import pytest

from blocks.machines import mailbox
from blocks.providers import boto, sagemaker
from blocks.providers.sagemaker import SageMaker
from tests.clouds.sagemaker import SageMakerCloud


@pytest.fixture
def cloud(tmp_path, monkeypatch):
    """Serve one whose jobs have no process; set `sshd_never` for those that have."""
    monkeypatch.setattr(SageMaker, "settle_seconds", 0.6)
    monkeypatch.setattr(sagemaker, "DESCRIBE_SECONDS", 0.0)
    monkeypatch.setattr(mailbox, "LONGEST_POLL", 0.1)
    monkeypatch.setattr(mailbox, "LINGER", 0.0)
    with SageMakerCloud(tmp_path / "cloud") as cloud:
        cloud.boot_seconds, cloud.sshd_never = 0.1, True
        for name, value in cloud.environ().items():
            monkeypatch.setenv(name, value)
        boto.forget()
        yield cloud
    assert cloud.errors == []
    assert cloud.contract.violations == []


@pytest.fixture
def provider(cloud):
    return SageMaker()
