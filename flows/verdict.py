"""What reconcile does about a run: a process at work decides, then the run's state in Prefect."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from prefect.client.schemas.objects import FlowRun, State, StateType

from blocks.home import runs
from blocks.registry import provider_class
from flows.attended import is_left, is_worked_on
from flows.owner import owner_elsewhere
from flows.renting.hire import Hire
from flows.renting.journal import Journal
from flows.run_folder import RunFolder
from trainer.contract.errors import OrchestratorError

# How long a run may be in a state of work without a process: longer than a process takes to start.
ZOMBIE_SECONDS = 30.0
PENDING_SECONDS = 600.0  # a worker may take minutes from taking a run to starting its process
KEPT_SECONDS = 120.0  # for a kept machine to end itself once its time is up
MAX_REVIVALS = (
    3  # of one run by reconcile within a day; one that crashes each time is brought to its end
)


class Act(StrEnum):
    """What becomes of a machine, or of a run."""

    KEEP = "keep"
    REVIVE = "revive"
    SETTLE = "settle"
    TERMINATE = "terminate"
    FAILED = "failed"
    """Something is to be done and could not be; the next pass tries again."""


def decide(run: FlowRun, *, is_here: bool, found: bool) -> tuple[Act, str]:
    """Return what is done about a run and its machines, and why.

    Args:
        run: as Prefect knows it.
        is_here: whether its process works, or worked, on this computer.
        found: whether it has a machine.
    """
    # A lock that is held says more than any state in Prefect, so it is asked first.
    folder = runs() / str(run.id)
    if is_here and is_worked_on(folder):
        return Act.KEEP, "a process works on it"
    state = run.state
    if state is None:
        return Act.KEEP, "it has not begun"
    is_over = state.is_final() and not state.is_crashed()
    elsewhere = "" if is_over or state.is_scheduled() else owner_elsewhere(run)
    if elsewhere:
        # Whatever of it is here is left from before it was resumed there.
        left = found or (is_here and holds_machine(RunFolder(run.id)))
        why = f"{elsewhere} works on it{', with a machine of its own' if left else ''}"
        return (Act.SETTLE if left else Act.KEEP), why
    return _by_state(run, state, is_here=is_here, found=found)


def _by_state(run: FlowRun, state: State[Any], *, is_here: bool, found: bool) -> tuple[Act, str]:
    folder = runs() / str(run.id)
    age = (datetime.now(UTC) - state.timestamp).total_seconds()
    may_be_new = abs(age) < ZOMBIE_SECONDS  # abs: the server's clock may be ahead of ours
    match state.type:
        case StateType.SCHEDULED:
            return Act.KEEP, "it is scheduled"
        case StateType.PENDING if not is_here or (age < PENDING_SECONDS and not is_left(folder)):
            return Act.KEEP, "it is about to begin"
        # Without its folder we cannot see its locks: that computer's own reconcile decides.
        case StateType.RUNNING | StateType.CANCELLING if not is_here:
            return Act.KEEP, "another computer works on it"
        # Where a mark was left, the process is known to be dead.
        case StateType.RUNNING | StateType.CANCELLING if may_be_new and not is_left(folder):
            return Act.KEEP, "its process may just be starting"
        case StateType.RUNNING | StateType.PENDING | StateType.CRASHED:
            if Journal.of(RunFolder(run.id)).revivals_lately < MAX_REVIVALS:
                return Act.REVIVE, f"it is {state.name} and no process works on it"
            return (
                Act.SETTLE,
                f"it was revived {MAX_REVIVALS} times already, each within a day of the one before",
            )
        case _:
            what = "its machine is still there" if found else "one of its machines is not closed"
            return Act.SETTLE, f"it is {state.name} and {what}"


def holds_machine(run: RunFolder) -> bool:
    """Whether a machine of a run may be billed, by its journal."""
    return any(_may_bill(hire) for hire in Journal.of(run).hires)


def _may_bill(hire: Hire) -> bool:
    try:
        waits = time.time() < hire.kept_until + KEPT_SECONDS
        return hire.is_open and not waits and not provider_class(hire.provider).is_home
    except OrchestratorError:  # the provider's package is no longer installed; its bill goes on
        return True
