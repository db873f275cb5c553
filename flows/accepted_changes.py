"""That a person accepts what has changed since a job was paused: noted at its run in Prefect.

The trainer refuses to go on from other rows, code or weights than it has learned from so far, see
`trainer.training.inputs`; whoever resumes the job may accept them, on whatever computer.
"""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.context import FlowRunContext

from trainer.contract.checkpoints import ACCEPT_VARIABLE

ACCEPTED = "training-orchestrator.accepted-changes"
"""The label of a flow run; its value is the time."""


async def accept_changes(client: PrefectClient, run_id: UUID) -> None:
    """Note that the run's next start may go on from what has changed by now."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    await client.update_flow_run_labels(run_id, {ACCEPTED: now})


def accepted_changes() -> dict[str, str]:
    """Return the variable that tells the trainer so; empty when nobody has accepted any."""
    context = FlowRunContext.get()
    labels = context.flow_run.labels if context and context.flow_run else {}
    word = str(labels.get(ACCEPTED, ""))
    return {ACCEPT_VARIABLE: word} if word else {}
