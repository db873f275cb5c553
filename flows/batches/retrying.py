"""A job of a batch that failed goes back into the queue by itself, as its batch allows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from prefect import get_run_logger
from prefect.client.schemas.objects import State
from prefect.exceptions import Pause
from prefect.states import Scheduled

from flows.batches.members import RETRIES, TRIED, first_sentence
from flows.batches.retries import Retries
from flows.prefect_api import prefect_client
from flows.run_folder import this_run_id
from flows.run_state import force_state, is_cancelled
from trainer.contract.errors import OrchestratorError
from trainer.contract.words import time_taken

RETRYING = "Retrying"
"""The name of the state of a run that failed, and waits to be tried again."""


async def try_again(error: OrchestratorError) -> None:
    """Schedule the flow run that calls anew, if its batch allows that after such an error.

    It goes on from its newest checkpoint then. Returns where it is at its end.

    Raises:
        Pause: it is scheduled; Prefect then leaves its state as it is.
    """
    async with prefect_client() as client:
        run = await client.read_flow_run(this_run_id())
        retries = Retries.of_label(run.labels.get(RETRIES))
        # A run of no deployment would wait for a worker that never comes.
        if retries is None or run.deployment_id is None or is_cancelled(run.state):
            return
        value = run.labels.get(TRIED)
        tried = value if isinstance(value, int) else 0
        wait = retries.seconds_until(error, tried)
        if wait is None:
            return
        # Before the state: a run that is tried again must never count as tried less often.
        await client.update_flow_run_labels(run.id, {TRIED: tried + 1})
        why = first_sentence(f"{type(error).__name__}: {error.message}")
        state: State[Any] = Scheduled(
            name=RETRYING,
            scheduled_time=datetime.now(UTC) + timedelta(seconds=wait),
            message=f"retry {tried + 1} of {retries.max} in {time_taken(wait)}, after {why}",
        )
        now = await force_state(client, run, state)
    if not is_cancelled(now):
        get_run_logger().warning("%s", state.message)
        raise Pause(state=now)
