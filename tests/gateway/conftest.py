"""`trainctl` with a home and a Prefect server of the test's own."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from commanding import Trainctl, call_trainctl


@pytest.fixture
def trainctl(prefect_server: str, home: Path) -> Trainctl:
    """Return `trainctl` with the test's server and home."""

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        return call_trainctl(*arguments, PREFECT_API_URL=prefect_server)

    return run
