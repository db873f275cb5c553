"""Other GPUs for a job whose own are taken, or out of use, when its training is to begin."""

from __future__ import annotations

from blocks.allotted import allotted
from blocks.models import Instance
from blocks.registry import load_provider
from flows.logger import logger
from flows.renting.giving_back import give_back
from flows.renting.journal import Journal
from flows.renting.turns import in_turn
from flows.renting.writing_off import write_off
from flows.run_folder import RunFolder
from trainer.config import TrainingJob
from trainer.contract.errors import (
    CapacityError,
    GpuSick,
    GpusTaken,
    MachineLost,
    TrainingFailed,
    from_dict,
)
from trainer.contract.gpu_locks import Allocation


def allocation_of(instance: Instance) -> Allocation:
    """Return what a job takes when it begins: the GPUs that its instance names, or a share of them."""
    given = allotted.get()
    if given and given.share_gb is not None and set(given.uuids) == set(instance.gpu_ids):
        return given
    return Allocation(uuids=instance.gpu_ids)


def has_what_was_allotted(instance: Instance) -> bool:
    """Whether an instance has the GPUs that a worker gave to this run; true where none did."""
    given = allotted.get()
    return given is None or not instance.gpu_ids or set(given.uuids) == set(instance.gpu_ids)


async def on_other_gpus(job: TrainingJob, instance: Instance, error: GpusTaken | None) -> Instance:
    """Return the same instance with GPUs of its machine that nobody has, after waiting for them.

    Args:
        job: whose they are to be.
        instance: has the GPUs that it cannot have now.
        error: who has them; None: a worker gave others to it.

    Raises:
        GpusTaken: its provider cannot give it others; another instance has to be found.
        TrainingFailed: no GPU of its machine will do.
    """
    provider = await load_provider(instance.provider)
    if error:
        logger().warning("%s Looking for others", error.message)
    try:
        found = await in_turn(lambda: provider.regroup(instance, job.resources, job.limits))
    except CapacityError as nothing:
        raise TrainingFailed(nothing.message, nothing.suggestion) from nothing
    if found is None:
        raise error or GpusTaken(
            f"{instance.id} does not have the GPUs that its worker gave to it."
        )
    logger().info("continuing on %s", ", ".join(found.gpu_ids) or "the CPU")
    return found


def refuse_sick(status: dict[str, object]) -> None:
    """Raise the error of a training that ended because its GPU did.

    Raises:
        GpuSick: it did.
    """
    record = status.get("error")
    error = (
        from_dict(record) if status.get("state") == "failed" and isinstance(record, dict) else None
    )
    if isinstance(error, GpuSick):
        raise error


async def move_on(
    job: TrainingJob, run: RunFolder, instance: Instance, error: MachineLost | GpusTaken
) -> None:
    """Give up what a job cannot train on any more, and return when it may have something else.

    Raises:
        MachineLost: the job lost more machines, or more steps, than its limits allow.
    """
    if isinstance(error, MachineLost):
        at_home = (await load_provider(instance.provider)).is_home
        if isinstance(error, GpuSick) and at_home and instance.gpu_ids:
            # Its job directory stays, and so do its checkpoints: only its GPUs are exchanged.
            logger().warning("%s The job goes on on other GPUs", error.message)
            return
        await write_off(job, run, instance, error)
        return
    journal = Journal.of(run)
    first = journal.of_instance(instance)
    logger().warning("%s Looking for others", error.message)
    for hire in journal.attempt_of(first) if first else ():
        await give_back(journal, hire, f"{type(error).__name__}: {error.message}")
