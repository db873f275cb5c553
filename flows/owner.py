"""Which installation works on a run: noted at the run in Prefect, where every computer sees it.

A run that is resumed on another computer leaves its folder here, and nothing in that folder says
where it goes on. The note does: the last installation that took the run owns it, and only its own
reconcile, which sees the locks of that computer, says whether a process works on the run.
"""

from __future__ import annotations

import socket
from uuid import UUID

from prefect.client.schemas.objects import FlowRun
from prefect.context import FlowRunContext

from blocks.marks import installation_id
from flows.logger import logger
from flows.prefect_api import UNANSWERED, prefect_client

OWNER = "training-orchestrator.owner"
"""The label of a flow run; its value is an installation, an @ and the name of its computer."""


def owned_here() -> dict[str, str | int | float | bool]:
    """Return the label of a run that is this installation's."""
    return {OWNER: f"{installation_id()}@{socket.gethostname()}"}


async def claim(run_id: UUID) -> None:
    """Note that a run is this installation's, however long Prefect's API is away."""
    context = FlowRunContext.get()
    known = context.flow_run.labels if context and context.flow_run else {}
    if owned_here().items() <= known.items():  # noted with the GPUs that the queue gave it
        return
    try:
        async with prefect_client() as client:
            await client.update_flow_run_labels(run_id, owned_here())
    except UNANSWERED as error:  # a refusal, by which no run may end
        logger().warning("Prefect does not note who works on this run: %s", error)


def owner_elsewhere(run: FlowRun) -> str:
    """Return the computer of the other installation that works on a run; empty if it is ours."""
    installation, _, computer = str(run.labels.get(OWNER, "")).partition("@")
    return "" if installation in {"", installation_id()} else computer or installation
