"""Write off a lost machine: what it cost in steps, and whether the job may have another."""

from __future__ import annotations

from blocks.models import Instance
from flows.logger import logger
from flows.renting.giving_back import give_back
from flows.renting.journal import Journal
from flows.run_folder import RunFolder
from flows.saved import stored_steps
from trainer.config import TrainingJob
from trainer.contract.checkpoints import newest_valid, step_of
from trainer.contract.errors import MachineLost, TimeUp
from trainer.contract.metrics import read_metrics


async def write_off(
    job: TrainingJob, run: RunFolder, instance: Instance, error: MachineLost
) -> None:
    """Give a lost machine back, and return when the job may go on with another.

    Machines that trained together with it go too: what comes next is hired, and begins, as one.

    Args:
        job: the job.
        run: its run.
        instance: the machine, or the first of its attempt.
        error: how it was lost.

    Raises:
        MachineLost: the job lost more machines, or more steps, than its limits allow.
    """
    journal = Journal.of(run)
    saved = _saved_step(run)
    lost = max(0, max(read_metrics(run.metrics)[0], default=0) - saved)
    # An end that was announced is no loss, as long as the job gets on from one to the next.
    if isinstance(error, TimeUp) and saved > journal.time_up_step:
        journal.time_up_step = saved
    else:
        journal.lost_machines += 1
    journal.lost_steps += lost
    # Saved before anything is given back, so that a crash in between does not grant another try.
    journal.save()
    logger().warning(
        "%s %d steps are trained again on another machine (machines lost so far: %d)",
        error.message,
        lost,
        journal.lost_machines,
    )
    first = journal.of_instance(instance)
    for hire in journal.attempt_of(first) if first else ():
        # A preempted machine may still be listed, and billed for its disk.
        await give_back(journal, hire, f"{type(error).__name__}: {error.message}")
    limits = job.limits
    if journal.lost_machines > limits.max_machine_losses:
        raise MachineLost(
            f"{journal.lost_machines} machines were lost, more than limits.max_machine_losses = "
            f"{limits.max_machine_losses}; the last: {error.message}",
            "Choose machines that are not spot, or raise the limit, and resume the job.",
        ) from error
    if limits.max_lost_steps is not None and journal.lost_steps > limits.max_lost_steps:
        raise MachineLost(
            f"{journal.lost_steps} steps were lost with {journal.lost_machines} machines, more "
            f"than limits.max_lost_steps = {limits.max_lost_steps}.",
            "Lower save_steps so that less is lost, or raise the limit, and resume the job.",
        ) from error


def _saved_step(run: RunFolder) -> int:
    """Return the step from which the job goes on."""
    checkpoint, _ = newest_valid(run.checkpoints)
    return max([step_of(checkpoint) if checkpoint else 0, *stored_steps(run)])
