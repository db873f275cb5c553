"""Pause a run for another that is more urgent, and queue it again at its old place.

The request is the same as a person's, so the training saves its exact state and loses no step. That
another job asked for it stands in the run itself, in its states and its labels: whichever worker finds
it at rest queues it again.
"""

from __future__ import annotations

from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun, StateType

from flows.announcing import ask_to_pause, pause_is_wanted
from flows.run_state import force_state
from flows.scheduling.labels import FOR, allotment, text
from flows.scheduling.reasons import queued
from flows.shown import short_id

_ASKED = "paused for job "


async def preempt(client: PrefectClient, run_id: UUID, whom: str) -> bool:
    """Ask a run to pause for another job; return whether it was asked.

    Args:
        client: Prefect's.
        run_id: which.
        whom: the id of the job that needs its GPUs.
    """
    now = (await client.read_flow_run(run_id)).state
    # Somebody else's word counts: a run that is to pause for a person must not be queued again.
    if now is None or now.type is not StateType.RUNNING or pause_is_wanted(now):
        return False
    await client.update_flow_run_labels(run_id, {FOR: whom})
    await ask_to_pause(client, run_id, f"{_ASKED}{short_id(whom)}")
    return True


def preempted_for(run: FlowRun) -> str:
    """Return the job for which a run that is about to rest was asked to pause; "" for a person."""
    asked = run.state is not None and (run.state.message or "").startswith(_ASKED)
    return text(run.labels, FOR) if asked else ""


async def queue_again(client: PrefectClient, run: FlowRun) -> bool:
    """Queue a run at its old place if it has paused for another job; return whether it did.

    Args:
        client: Prefect's.
        run: as it was read last, with its labels.
    """
    if run.state is None or not run.state.is_paused() or not text(run.labels, FOR):
        return False
    states = await client.read_flow_run_states(run.id)
    asked = [one for one in states if one.type is StateType.RUNNING and pause_is_wanted(one)]
    newest = max(asked, key=lambda one: one.timestamp, default=None)
    suspended = any(
        one.type is StateType.PAUSED and one.id != run.state.id
        for one in states
        if newest is None or one.timestamp > newest.timestamp
    )
    why = str(newest.message) if newest else ""
    if not why.startswith(_ASKED) or suspended:
        return False  # a person has asked for it since, and will resume it
    had = allotment(run.labels)
    place = had.place if had else (run.created or run.state.timestamp).timestamp()
    return (await force_state(client, run, queued(place, why))).type is StateType.SCHEDULED
