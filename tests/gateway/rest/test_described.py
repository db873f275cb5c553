"""Every operation does what its description says, whatever is sent: asked by schemathesis."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.gateway.serving import prefect_of_its_own, service

CASES = 500
CONFIG = Path(__file__).with_name("schemathesis.toml")


@pytest.mark.thorough
@pytest.mark.timeout(4 * 3600)
def test_every_operation_keeps_to_its_description(tmp_path):
    with prefect_of_its_own(tmp_path) as environ, service(tmp_path, environ=environ) as url:
        asked = ask(url, "--max-examples", str(CASES))

    assert asked.returncode == 0, asked.stdout


def ask(url: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Ask all operations, and those that follow from one another, and return what was found."""
    schemathesis = Path(sys.executable).with_name("schemathesis")
    options = ("--checks", "all", "--request-timeout", "120", "--no-color")
    return subprocess.run(
        [schemathesis, "--config-file", CONFIG, "run", f"{url}/openapi.json", *options, *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=CONFIG.parent,
    )
