"""Jobs of a few seconds, and `trainctl` called as a user does: as a process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from ruamel.yaml import YAML

from gateway.cli import main
from tests.stand_in import patient
from tests.waiting import until_now
from trainer.config import TrainingJob

EXAMPLES = Path(__file__).parents[2] / "examples"

Trainctl = Callable[..., subprocess.CompletedProcess[str]]


def job_values(**training: Any) -> dict[str, Any]:
    """Return a job of a few seconds on the CPU; a value of `training` replaces or adds one."""
    return {
        "name": "by-hand",
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


def make_job(**training: Any) -> TrainingJob:
    """Return that job, checked."""
    return TrainingJob.model_validate(job_values(**training))


def job_file(folder: Path, **training: Any) -> Path:
    """Write that job to a file."""
    return job_file_of(job_values(**training)["training"], folder)


def job_file_of(training: dict[str, Any], folder: Path) -> Path:
    """Write that job with a training of its own to a file."""
    path = folder / "job.yaml"
    YAML().dump({**job_values(), "training": training}, path)
    return path


def patient_job_file(folder: Path) -> Path:
    """Write a job that is still at work when a test has done to it what it wants."""
    return job_file_of(patient(folder), folder)


def call_here(
    capfd: pytest.CaptureFixture[str], *arguments: object
) -> subprocess.CompletedProcess[str]:
    """Run a command in this process, which spares the seconds in which one imports Prefect."""
    capfd.readouterr()
    with pytest.raises(SystemExit) as leaving:
        main([str(argument) for argument in arguments])
    return subprocess.CompletedProcess(arguments, leaving.value.code or 0, *capfd.readouterr())


def call_trainctl(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, without a terminal."""
    return subprocess.run(
        [sys.executable, "-m", "gateway", *map(str, arguments)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=280,  # on a full computer; a whole test may take 300
        check=False,
    )


def process_of(job: str) -> psutil.Process:
    """Return the process that executes a job in the background."""

    def found() -> psutil.Process | None:
        for process in psutil.process_iter(["cmdline"]):
            if {"flows.background", job} <= set(process.info["cmdline"] or ()):
                return process
        return None

    return until_now(found)
