"""Say how a cancelled run ended, after Prefect has: `python -m flows.last_word RUN_ID MESSAGE`.

Prefect's worker gives a run that it cancelled a state of its own, after the flow and its hooks have
ended. This process outlives them, and replaces that state by one that says what was saved.
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any
from uuid import UUID

from prefect import get_client
from prefect.client.schemas.objects import State
from prefect.states import Cancelled

from flows.attended import start_beside
from flows.saved import STOPPED
from trainer.contract.garbage import search_seldom

POLL_SECONDS = 0.3
# Prefect's `cancelling_timeout_seconds`: by then the server ends what no worker has cancelled.
PATIENCE_SECONDS = 300.0
AGAIN_SECONDS = 5.0  # during which Prefect may set its state once more


def speak_last(run_id: UUID, message: str) -> None:
    """Make the run's last state ours, and return at once."""
    start_beside(run_id, "flows.last_word", str(run_id), message)


async def speak(run_id: UUID, message: str) -> None:
    """Wait until Prefect has set its cancelled state, and replace it by ours."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    async with get_client() as client:
        while time.monotonic() < deadline:
            state = (await client.read_flow_run(run_id)).state
            if state is None or not (state.is_cancelled() or state.is_cancelling()):
                return  # it was resumed, or ended in another way
            if state.is_cancelled() and state.name != STOPPED:
                stopped: State[Any] = Cancelled(name=STOPPED, message=message)
                # Forced past Prefect's orchestration rules, because both states are final.
                await client.set_flow_run_state(run_id, stopped, force=True)
                deadline = min(deadline, time.monotonic() + AGAIN_SECONDS)
            await asyncio.sleep(POLL_SECONDS)


if __name__ == "__main__":
    search_seldom()
    asyncio.run(speak(UUID(sys.argv[1]), sys.argv[2]))
