"""Where a training goes on: which checkpoint, and what is read from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trainer.config import TrainingConfig
from trainer.config.methods import METHODS
from trainer.contract import checkpoints
from trainer.contract.errors import CheckpointDamaged, IntegrityError
from trainer.contract.events import Kind, note_event
from trainer.contract.files import read_json
from trainer.contract.job_directory import JobDirectory
from trainer.contract.manifest import read_manifest
from trainer.contract.parts import refuse_parts_of_others
from trainer.contract.world import own_rank
from trainer.engine.collectives import of_first


def resume_point(directory: JobDirectory) -> Path | None:
    """Return the newest valid checkpoint of the first machine, which every other has too.

    Raises:
        CheckpointDamaged: this machine has not the one that all are to go on from.
    """
    found, rank = of_first(lambda: _newest_valid(directory)), own_rank()
    here = directory.checkpoints / found.name if found else None
    if rank.on_several_machines and rank.is_first_here:
        # Each machine has its own disk, and has got the checkpoint over the network.
        name = found.name if found else None
        meant = (read_json(directory.job) or {}).get("resume", name)
        if meant != name:
            raise CheckpointDamaged(f"{meant}, which all are to go on from, is not whole here.")
        try:
            if here:
                checkpoints.check(here)
                refuse_parts_of_others(read_manifest(here), rank, here.name)
        except IntegrityError as error:
            raise CheckpointDamaged(error.message) from error
    if here is None:
        return None
    _say(line := f"resuming from {here.name}")
    if rank.is_first:
        step = checkpoints.step_of(here)
        note_event(directory, Kind.RESUMED, line, step=step, checkpoint=here.name)
    return here


def _newest_valid(directory: JobDirectory) -> Path | None:
    checkpoint, rejected = checkpoints.newest_valid(directory.checkpoints)
    for name, reason in rejected.items():
        _say(f"warning: skipped a checkpoint: {reason}")
        note_event(directory, Kind.CHECKPOINT_PASSED_OVER, reason, checkpoint=name)
    if checkpoint and (before := checkpoints.processes_of(checkpoint)) != own_rank().world_size:
        _say(
            f"warning: {checkpoint.name} was saved by {before} processes and continues with "
            f"{own_rank().world_size}: random numbers, such as dropout's, will be others"
        )
    return checkpoint


def with_same_batch(
    config: TrainingConfig, checkpoint: Path | None, processes: int
) -> tuple[TrainingConfig, dict[str, int]]:
    """Return the settings by which a step has as many examples as before, by however many processes.

    Then the rest of the training learns from the same rows in the same steps. Where the job asks for
    another batch than when the checkpoint was saved, it gets that.

    Returns:
        The settings; and what manifests of checkpoints say of it: what was asked for, and what a step
        has.
    """
    device, steps = config.per_device_train_batch_size, config.gradient_accumulation_steps
    asked = {"device": device, "accumulated": steps}
    now = asked | {"examples": device * steps * processes}
    before = read_manifest(checkpoint).get("batch") if checkpoint else None
    examples = before.get("examples") if isinstance(before, dict) else None
    same = isinstance(examples, int) and {**now, "examples": examples} == before
    if not same or before == now or METHODS[config.method].generates:
        return config, now
    for fewer in range(device, 0, -1):
        steps, left = divmod(examples or 0, fewer * processes)
        if steps and not left:
            _say(f"a step keeps its {examples} examples")
            kept = {"per_device_train_batch_size": fewer, "gradient_accumulation_steps": steps}
            return config.model_copy(update=kept), {**asked, "examples": examples or 0}
    _say(
        f"warning: a step had {examples} examples, which {processes} processes cannot share: it has "
        f"{now['examples']} from here on, and other rows"
    )
    return config, now


def state_of(checkpoint: Path) -> Any:
    """Return transformers' state at a checkpoint: steps done, steps planned, what was logged."""
    from transformers import TrainerState

    return TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))


def load_best(trainer: Any, directory: JobDirectory, step: int) -> None:
    """Put the best checkpoint's weights into the model.

    Raises:
        IntegrityError: the best checkpoint no longer holds.
    """
    best = directory.checkpoints / f"checkpoint-{step}"
    checkpoints.check(best)
    trainer._load_from_checkpoint(str(best))
    _say(f"using the weights of step {step}, the best evaluation")


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201 - standard output is the job's log
