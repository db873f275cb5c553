"""Make the machine ready to train."""

from __future__ import annotations

import asyncio
import shlex
from pathlib import Path, PurePosixPath
from typing import Any

from prefect import get_run_logger

from blocks.home import home, private_folder
from blocks.models import Instance
from blocks.registry import load_provider
from blocks.workplaces.base import Log, Needed, Workplace
from flows.renting.journal import Journal
from flows.renting.liveness import in_contact
from flows.run_folder import RunFolder
from flows.setup.secrets import secrets
from flows.setup.wheel import extra_requirements, trainer_wheel
from flows.tasks.step import step
from trainer.config import TrainingJob
from trainer.config.extras import extras_of
from trainer.contract.own_python import users_variables

SETUP_DONE = "setup-done"  # the file in the job directory that says so


@step
async def install(job: TrainingJob, instance: dict[str, Any]) -> str:
    """Make sure that the trainer can run, and run the job's `setup` once.

    Returns:
        The Python on the machine that the trainer runs with.

    Raises:
        DependencyError: a package is missing and cannot be installed, or a setup command failed.
        DiskFull: what is missing does not fit.
    """
    where = Instance.from_dict(instance)
    provider = await load_provider(where.provider)
    log = get_run_logger().info

    def wheel() -> Path:
        return trainer_wheel(private_folder(home() / "wheels"))

    async def work(workplace: Workplace) -> str:
        also = extra_requirements(extras_of(job.training))
        needed = Needed(training=job.training, wheel=wheel, also=also)
        python = await workplace.install(needed, log)
        # After the environment: what `setup` installs goes into it.
        await run_setup(workplace, job.setup, python, log)
        return python

    journal = Journal.of(RunFolder.of_this_run())
    # What it gets done is not known, only that it fails again: cuts a lease apart are no progress.
    return await in_contact(job, provider, where, journal, work, arrived=lambda: None)


async def run_setup(workplace: Workplace, lines: list[str], python: str, log: Log) -> None:
    """Run a job's `setup` in its directory, once; `python` and `pip` are the trainer's."""
    if not lines or await workplace.read(SETUP_DONE) is not None:
        return
    programs = shlex.quote(str(PurePosixPath(python).parent))
    path = f'export PATH={programs}:"$PATH"'
    # In a thread: a login to the Hub that runs out is renewed over the network.
    variables = {**await asyncio.to_thread(secrets), **users_variables()}
    await workplace.run_lines([path, *lines], variables, log)
    # Only after the last line: a `setup` that was interrupted is run again from the beginning.
    await workplace.replace(SETUP_DONE, b"")
