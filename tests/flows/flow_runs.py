"""A small real job, and flow processes that can be killed."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect import get_client
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
from prefect.client.schemas.sorting import LogSort

from flows.run_folder import RunFolder
from flows.shown import LOGGER
from tests.stand_in import patient
from tests.waiting import until
from trainer.config import TrainingJob
from trainer.contract.job_directory import JobDirectory, Status

EXAMPLES = Path(__file__).parents[2] / "examples"
EXECUTE = (
    "import asyncio, sys, uuid\n"
    "from prefect.exceptions import Pause\n"
    "from flows.execute import execute\n"
    "from trainer.contract.garbage import search_seldom\n"
    "search_seldom()\n"
    "async def main():\n"
    "    await asyncio.gather(*(execute(uuid.UUID(id)) for id in sys.argv[1:]))\n"
    "try: asyncio.run(main())\n"
    "except Pause: pass\n"
)


def make_job(**training: Any) -> TrainingJob:
    """Return a job of about 100 fast steps on the CPU."""
    return TrainingJob.model_validate(
        {
            "name": "small",
            "resources": {"gpu_count": 0, "cpu_threads": 1},
            "training": {
                "model": str(EXAMPLES / "tiny-llama"),
                "init": "random",
                "peft": None,
                "dataset": {
                    "path": str(EXAMPLES / "quickstart.jsonl"),
                    "eval_fraction": 0.05,
                    "max_rows": 120,
                },
                "max_steps": 60,
                "eval_steps": 30,
                "save_steps": 10,
                "max_length": 64,
                "per_device_train_batch_size": 4,
                "learning_rate": 1e-3,
                **training,
            },
        }
    )


def patient_job(folder: Path) -> TrainingJob:
    """Return a job that is still at work when a test has done to it what it wants."""
    return of_stand_in(patient(folder))


def of_stand_in(training: dict[str, Any]) -> TrainingJob:
    """Return that job with a training by the stand-in."""
    return TrainingJob.model_validate({**make_job().model_dump(), "training": training})


async def shipped_lines(run_id: UUID) -> list[str]:
    """Return the lines of a run's training log that Prefect has, in order."""
    lines: list[str] = []
    async with get_client() as client:
        for offset in range(0, 100_000, 200):
            page = await client.read_logs(
                LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run_id])),
                limit=200,
                offset=offset,
                sort=LogSort.TIMESTAMP_ASC,
            )
            lines += [x for log in page if log.name == LOGGER for x in log.message.split("\n")]
            if len(page) < 200:
                break
    return lines


class FlowProcess:
    """A process that executes one flow run, or several at once."""

    def __init__(self, *run_ids: UUID) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", EXECUTE, *map(str, run_ids)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()

    async def ended(self) -> str:
        """Wait for its end and return what it printed."""
        output, _ = await asyncio.to_thread(self.process.communicate, timeout=180)
        return output.decode()


class Job:
    """What can be seen of one run from outside."""

    def __init__(self, home: Path, run_id: UUID) -> None:
        self.run_id = run_id
        self.mirror = home / "runs" / str(run_id)

    @property
    def directory(self) -> JobDirectory:
        """Its newest job directory on this computer; one that is not there before it has any."""
        return RunFolder(self.run_id).job_directory() or JobDirectory(self.mirror / "none")

    def status(self) -> Status:
        return self.directory.read_status()

    async def at_step(self, step: int) -> Status:
        return await until(lambda: self.status().step >= step and self.status())

    def is_gone(self) -> bool:
        """Whether no process works for this run any more."""
        marker = self.run_id.hex
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                try:
                    if marker in (entry / "cmdline").read_bytes().decode(errors="replace"):
                        return False
                except OSError:
                    continue
        return True
