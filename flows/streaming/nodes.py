"""The machines that train one job together, one at a time; see `flows.streaming.gang`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blocks.models import Instance
from blocks.workplaces.base import CommandResult
from flows.streaming.checkpoint_mirror import put_back
from flows.streaming.run_store import CHECKPOINTS
from flows.streaming.training import RemoteTraining
from trainer.contract.checkpoints import step_of
from trainer.contract.errors import OrchestratorError, TrainerKilled, TrainingFailed
from trainer.contract.job_directory import Desired, JobState, parse_status
from trainer.contract.manifest import read_manifest
from trainer.contract.parts import needed_on

NETWORK = "trainer.supervision.network"  # the module by which machines find each other


@dataclass(frozen=True, slots=True)
class Node:
    """One of the machines, and the Python there that has the trainer."""

    rank: int
    instance: Instance
    python: str

    @property
    def address(self) -> str:
        """The address by which the others reach it."""
        return self.instance.private_address or self.instance.address


async def look(training: RemoteTraining) -> dict[str, Any] | None:
    """Return what the supervisor reports; None for a job directory that is not filled yet."""
    if await training.workplace.read("job.json") is None:
        return None
    return await training.examine()


async def continue_from(
    training: RemoteTraining, checkpoint: Path | None, world: Mapping[str, Any], *, anew: bool
) -> None:
    """Make a checkpoint the newest on a machine, or leave none there.

    Args:
        training: where.
        checkpoint: the one at home; None to start from the beginning.
        world: how many machines and processes go on from it.
        anew: bring it there whatever is there: on some machine it was found damaged.
    """
    # A trainer resumes from the newest it finds, and all must resume from the same step: newer
    # ones, such as one that was saved but did not come home, have to go.
    newest = step_of(checkpoint) if checkpoint else -1
    there = await training.workplace.listing(CHECKPOINTS)
    wrong = [f"{CHECKPOINTS}/{name}" for name in there if step_of(Path(name)) > newest]
    if wrong:
        await training.workplace.remove(wrong)
    if checkpoint:
        sizes = {name: world[name] for name in ("nodes", "processes")}
        needed = needed_on(read_manifest(checkpoint), training.rank, **sizes)
        await put_back(training.workplace, checkpoint, needed, anew=anew)


async def join(training: RemoteTraining, world: dict[str, Any], resume: str | None) -> None:
    """Write into a machine's job who its peers are, and that it shall train.

    Args:
        training: where.
        world: see `trainer.contract.world`.
        resume: the checkpoint that all go on from, by its name; None: the beginning.
    """
    # Written at every start: the port is another one each time, and batches may be smaller.
    content = await training.workplace.read("job.json")
    record = {**json.loads(content or b"{}"), "world": world, "resume": resume}
    await training.workplace.write("job.json", record)
    await training.ask(Desired.RUN, "")


async def call(training: RemoteTraining, *words: str) -> CommandResult:
    """Run `trainer.supervision.network` on a machine."""
    return await training.workplace.call(training.python, {}, NETWORK, *words)


async def network(training: RemoteTraining, *words: str) -> dict[str, Any]:
    """Return what `trainer.supervision.network` answers on a machine.

    Raises:
        TrainingFailed: it failed; the message says why.
    """
    result = await call(training, *words)
    if result.exit_code:
        raise TrainingFailed(result.stderr.strip()[-300:])
    answer: dict[str, Any] = json.loads(result.stdout)
    return answer


def takes_part(facts: dict[str, Any] | None) -> bool:
    """Whether a machine beside the first is training, or has completed its part."""
    if facts is None:
        return False
    return bool(facts["alive"]) or parse_status(facts).state is JobState.COMPLETED


def error_of(facts: dict[str, Any]) -> OrchestratorError | None:
    """Return why the trainer of a machine did not end as it should."""
    status = parse_status(facts)
    if not status.state.at_rest:
        return TrainerKilled("Supervisor and trainer disappeared without leaving a reason.")
    if status.interrupted:
        return TrainerKilled(f"It stopped: {status.reason}.")
    return status.exception()
