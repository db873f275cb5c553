"""Say how a cancelled run ended, after Prefect has: `python -m flows.last_word RUN_ID MESSAGE`.

Prefect's worker gives a run that it cancelled a state with words of its own, when all that we
could say from inside is said. This process outlives that, and sets the state with what is true.
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

POLL_SECONDS = 0.3
PATIENCE_SECONDS = 300.0
AGAIN_SECONDS = 5.0  # in which Prefect may say it once more


def speak_last(run_id: UUID, message: str) -> None:
    """Let the run's last state be ours, and return at once."""
    start_beside(run_id, "flows.last_word", str(run_id), message)


async def speak(run_id: UUID, message: str) -> None:
    """Wait until the run is cancelled in Prefect's words, and say it in ours."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    async with get_client() as client:
        while time.monotonic() < deadline:
            state = (await client.read_flow_run(run_id)).state
            if state is None or not (state.is_cancelled() or state.is_cancelling()):
                return  # it goes on, or ended in another way
            if state.is_cancelled() and state.name != STOPPED:
                stopped: State[Any] = Cancelled(name=STOPPED, message=message)
                await client.set_flow_run_state(run_id, stopped, force=True)
                deadline = min(deadline, time.monotonic() + AGAIN_SECONDS)
            await asyncio.sleep(POLL_SECONDS)


if __name__ == "__main__":
    asyncio.run(speak(UUID(sys.argv[1]), sys.argv[2]))
