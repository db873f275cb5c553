"""Job directories whose trainer is a small script, under a real supervisor."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import trainer
from tests.waiting import PATIENCE, until_now
from trainer.contract.events import Event, parse_events
from trainer.contract.job_directory import JobDirectory, JobState, Status

PRELUDE = """
import os, signal, subprocess, sys, time
from trainer.contract.errors import *
from trainer.contract.job_directory import *
job = JobDirectory(sys.argv[1])
attempt = job.read_status().attempt
def state(name, **changes):
    job.update_status(state=JobState(name), **changes)
def wait_for(condition):
    while not condition():
        time.sleep(0.01)
def wanted():
    return job.read_control().desired.value
"""
ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(trainer.__file__).parents[1])}


class Supervised:
    """A job directory with a script for a trainer; `limits` are those of job.json."""

    def __init__(self, root: Path, script: str, *, batch_size: int = 8, **limits: Any) -> None:
        self.job = JobDirectory(root)
        root.mkdir(exist_ok=True)
        self.write_job(
            command=[sys.executable, "-c", PRELUDE + script, str(root)],
            config={"per_device_train_batch_size": batch_size},
            limits=limits,
        )

    def write_job(self, **record: Any) -> None:
        self.job.job.write_text(json.dumps(record))

    def start(self, *options: str, **streams: Any) -> subprocess.Popen[str]:
        streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL} | streams
        return subprocess.Popen(command(self.job.root, *options), env=ENVIRONMENT, **streams)

    def run(self, *options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command(self.job.root, *options),
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    @property
    def status(self) -> Status:
        return self.job.read_status()

    @property
    def log(self) -> str:
        return self.job.log.read_text()

    @property
    def events(self) -> list[Event]:
        return parse_events(self.job.events.read_bytes().splitlines())

    def until(self, state: JobState) -> None:
        until_now(lambda: self.status.state is state)


def command(root: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "trainer", *options, str(root)]
