"""`trainctl` with a home and a Prefect server of the test's own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.gateway.commanding import Trainctl, call_here


@pytest.fixture(autouse=True)
def nothing_goes_on(home: Path) -> Iterator[None]:
    """End what a test that failed has left at work: its training would slow all others down."""
    yield
    # By the environment, which all processes of a job inherit: they lead sessions of their own.
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("TRAINING_ORCHESTRATOR_HOME") == str(home):
                process.kill()


@pytest.fixture
def trainctl(prefect_api: str, capfd: pytest.CaptureFixture[str]) -> Trainctl:
    """Return `trainctl` with the test's server and home, called in this process."""
    return lambda *arguments: call_here(capfd, *arguments)
