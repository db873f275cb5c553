"""Make the machine ready to train."""

from __future__ import annotations

import json
import sys
from typing import Any

from prefect import get_run_logger

from blocks.machines.base import Machine
from blocks.models import Instance
from blocks.registry import load_provider
from flows.tasks.step import step
from trainer.config import TrainingJob
from trainer.errors import DependencyError

NEEDED = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "safetensors")
PROBE = (
    "import importlib.metadata as m, json, sys\n"
    "found = {}\n"
    "for name in sys.argv[1:]:\n"
    "    try: found[name] = m.version(name)\n"
    "    except m.PackageNotFoundError: found[name] = None\n"
    "print(json.dumps(found))"
)


@step
async def install(job: TrainingJob, instance: dict[str, Any]) -> None:
    """Check that the trainer can run, and run the job's `setup` once.

    Raises:
        DependencyError: a package is missing, or a setup command failed.
    """
    where = Instance.from_dict(instance)
    async with load_provider(where.provider).machine(where) as machine:
        await _check_packages(machine)
        marker = f"{where.workspace}/setup-done"
        if job.setup and await machine.read(marker) is None:
            logger = get_run_logger()
            await machine.run_shell(job.setup, cwd=where.workspace, log=logger.info)
            await machine.write(marker, b"")


async def _check_packages(machine: Machine) -> None:
    result = await machine.run([sys.executable, "-c", PROBE, *NEEDED], timeout=60)
    if result.exit_code:
        raise DependencyError(f"{sys.executable} does not run: {result.stderr.strip()[-300:]}.")
    found: dict[str, str | None] = json.loads(result.stdout)
    missing = [name for name, version in found.items() if version is None]
    if missing:
        raise DependencyError(
            f"{sys.executable} lacks {', '.join(missing)}.",
            f"Run: {sys.executable} -m pip install 'training-orchestrator[trainer]'",
        )
    get_run_logger().info(
        "environment: %s", ", ".join(f"{name} {version}" for name, version in found.items())
    )
