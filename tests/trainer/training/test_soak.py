"""The soak itself: few kills of one method, where `make soak` makes twenty of each."""

import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).parents[3] / "benchmarks" / "soak.py"


@pytest.mark.thorough
@pytest.mark.slow
def test_a_method_that_is_killed_at_random_moments_ends_as_if_it_never_was():
    done = subprocess.run(
        [sys.executable, str(SOAK), "dpo", "--kills", "4", "--jobs", "1", "--seed", "7"],
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    row = next(line.split() for line in done.stdout.splitlines() if line.startswith("dpo "))
    assert (row[0], row[1], row[-1]) == ("dpo", "4", "yes")
