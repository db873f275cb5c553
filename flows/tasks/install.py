"""Make the machine ready to train."""

from __future__ import annotations

import asyncio
import shlex
import sys
from pathlib import PurePosixPath
from typing import Any

from prefect import get_run_logger

from blocks.home import home, private_folder
from blocks.machines.base import Machine
from blocks.models import Instance
from blocks.registry import load_provider
from flows.renting.journal import Journal
from flows.renting.lease import base_of
from flows.renting.liveness import in_contact
from flows.run_folder import RunFolder
from flows.setup.environment import Log, prepare
from flows.setup.secrets import secrets
from flows.setup.wheel import extra_requirements, trainer_wheel
from flows.tasks.step import step
from trainer.config import TrainingJob
from trainer.config.extras import check_extras, check_trainer, extras_of
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

    async def work(machine: Machine) -> str:
        if provider.is_home:
            if job.training.trainer == "builtin":  # what another trainer needs is not known here
                found = check_trainer()
                log(f"environment: {', '.join(f'{name} {v}' for name, v in found.items())}")
            check_extras(job.training)
            python = sys.executable
        else:
            wheel = await asyncio.to_thread(trainer_wheel, private_folder(home() / "wheels"))
            also = extra_requirements(extras_of(job.training))
            python = await prepare(machine, base_of(where), wheel, log, also=also)
            await machine.run(["mkdir", "-p", "--", where.workspace], timeout=60)
        # After the environment: what `setup` installs goes into it.
        await run_setup(machine, job.setup, where.workspace, python, log)
        return python

    journal = Journal.of(RunFolder.of_this_run())
    # What it gets done is not known, only that it fails again: cuts a lease apart are no progress.
    return await in_contact(job, provider, where, journal, work, arrived=lambda: None)


async def run_setup(
    machine: Machine, lines: list[str], workspace: str, python: str, log: Log
) -> None:
    """Run a job's `setup` in its directory, once; `python` and `pip` are the trainer's."""
    marker = f"{workspace}/{SETUP_DONE}"
    if not lines or await machine.read(marker) is not None:
        return
    programs = shlex.quote(str(PurePosixPath(python).parent))
    path = f'export PATH={programs}:"$PATH"'
    # In a thread: a login to the Hub that runs out is renewed over the network.
    variables = {**await asyncio.to_thread(secrets), **users_variables()}
    await machine.run_shell([path, *lines], env=variables, cwd=workspace, log=log)
    # Only after the last line: a `setup` that was interrupted is run again from the beginning.
    await machine.write(marker, b"")
