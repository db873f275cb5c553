"""Which installation works on a run: noted at the run in Prefect, where every computer sees it.

A run that is resumed on another computer leaves its folder here, and nothing in that folder says
where it goes on. The note does: the last installation that took the run owns it, and only its own
reconcile, which sees the locks of that computer, says whether a process works on the run.
"""

from __future__ import annotations

import asyncio
import socket
from uuid import UUID

import httpx
from prefect import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import PrefectHTTPStatusError

from blocks.marks import installation_id
from flows.logger import logger

OWNER = "training-orchestrator.owner"
"""The label of a flow run; its value is an installation, an @ and the name of its computer."""
AGAIN_SECONDS = 5.0


async def claim(run_id: UUID) -> None:
    """Note that a run is this installation's, however long Prefect's API is away."""
    owner = f"{installation_id()}@{socket.gethostname()}"
    while True:
        try:
            async with get_client() as client:
                await client.update_flow_run_labels(run_id, {OWNER: owner})
        except (httpx.HTTPError, PrefectHTTPStatusError) as error:
            logger().debug("the run's owner is not noted yet: %s", error)
            await asyncio.sleep(AGAIN_SECONDS)
        else:
            return


def owner_elsewhere(run: FlowRun) -> str:
    """Return the computer of the other installation that works on a run; empty if it is ours."""
    installation, _, computer = str(run.labels.get(OWNER, "")).partition("@")
    return "" if installation in {"", installation_id()} else computer or installation
