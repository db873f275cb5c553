"""Call `trainctl` as a user does: as a process, with a home and a Prefect server of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

EXAMPLES = Path(__file__).parents[2] / "examples"

Trainctl = Callable[..., subprocess.CompletedProcess[str]]


def job_file(folder: Path, **training: Any) -> Path:
    """Write a job of a few seconds on the CPU; a value of `training` replaces or adds one."""
    job = {
        "name": "small",
        "resources": {"gpu_count": 0, "cpu_threads": 1},
        "training": {
            "model": str(EXAMPLES / "tiny-llama"),
            "init": "random",
            "peft": None,
            "dataset": {"path": str(EXAMPLES / "quickstart.jsonl"), "eval_fraction": 0.1},
            "max_steps": 6,
            "max_length": 64,
            "per_device_train_batch_size": 4,
            "learning_rate": 1e-3,
            **training,
        },
    }
    path = folder / "job.yaml"
    YAML().dump(job, path)
    return path


def call_trainctl(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, without a terminal."""
    return subprocess.run(
        [sys.executable, "-m", "gateway", *map(str, arguments)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def until(condition: Callable[[], Any], seconds: float = 90) -> Any:
    """Wait until `condition` gives something true and return that."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.1)
    pytest.fail(f"waited {seconds} s in vain for {condition}")


@pytest.fixture
def trainctl(prefect_server: str, home: Path) -> Trainctl:
    """Return `trainctl` with the test's server and home."""

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        return call_trainctl(*arguments, PREFECT_API_URL=prefect_server)

    return run
