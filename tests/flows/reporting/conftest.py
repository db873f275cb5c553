"""A receiver, and a run that reports to it."""

from __future__ import annotations

from uuid import uuid4

import pytest

from flows.reporting import delivery, reporter
from flows.run_folder import RunFolder
from tests.flows.reporting.receiver import Receiver

VARIABLES = (
    *("METRICS_API_URL", "JOB_TOKEN", "ALERT_API_URL", "INTERNAL_API_KEY"),
    *("JOB_ID", "USER_ID", "MODEL_NAME"),
)


@pytest.fixture
def receiver(monkeypatch):
    """A receiver that is down until it is started; the environment names it."""
    found = Receiver().reserve()
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in found.environment.items():
        monkeypatch.setenv(name, value)
    yield found
    found.stop()
    assert found.problems == []


@pytest.fixture
def hasty(monkeypatch):
    """Short pauses."""
    monkeypatch.setattr(delivery, "PAUSES", (0.05, 0.1))
    monkeypatch.setattr(reporter, "INTERVAL_SECONDS", 0.05)
    monkeypatch.setattr(reporter, "FINISH_SECONDS", 2.0)


@pytest.fixture
def run(home) -> RunFolder:
    return RunFolder(uuid4())
