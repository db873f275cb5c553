"""One process works on a run at a time, until Prefect has the run's last state."""

from __future__ import annotations

import os
from contextvars import ContextVar

from flows.locks import taken
from flows.logger import logger
from flows.run_folder import RunFolder

# The run and its lock's descriptor. Prefect sets a run's last state after its flow has returned, so
# a `with` in the flow would give the lock up too early: between the two, reconcile would take the
# run for one whose process died. `flows.execute` gives it up, or the end of a worker's process,
# which executes one run.
_owned: ContextVar[tuple[str, int] | None] = ContextVar("the run that this task owns", default=None)


async def own(run: RunFolder) -> bool:
    """Be the only one that works on this run; wait while another process, or task, does.

    A run can have two processes: for instance, when it is resumed before the first one ended.

    Returns:
        Whether another one worked on it until now, and may have brought it to its end.
    """
    if (owned := _owned.get()) and owned[0] == run.run_id:
        return False
    descriptor = await taken(run.lock, wait=False)
    waited = descriptor is None
    if descriptor is None:
        logger().warning("another process works on this run; waiting for it")
        # Waiting, not ending: Prefect would take our end for the run's, while the other trains.
        descriptor = await taken(run.lock)
    assert descriptor is not None  # noqa: S101 - it was waited for
    _owned.set((run.run_id, descriptor))
    return waited


def disown(run: RunFolder) -> None:
    """Let another process work on this run, if it was ours."""
    if (owned := _owned.get()) and owned[0] == run.run_id:
        _owned.set(None)
        os.close(owned[1])
