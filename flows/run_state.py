"""A run's state: whether it is cancelled, and how to set it without undoing a cancellation."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun, State, StateType


def is_cancelled(state: State | None) -> bool:
    """Whether a flow run is cancelled, or about to be."""
    return state is not None and state.type in {StateType.CANCELLING, StateType.CANCELLED}


async def set_meanwhile(
    client: PrefectClient, run_id: UUID, known: State | None, ours: State | None
) -> list[State]:
    """Return what was set between our reading of `known` and our writing of `ours`, newest first.

    Prefect has no compare-and-set for states: what somebody asked for in between was overwritten,
    but stands in the run's history.
    """
    states = sorted(await client.read_flow_run_states(run_id), key=lambda each: each.timestamp)
    between: list[State] = []
    for state in states:
        if ours is not None and state.id == ours.id:
            break
        between = [] if known is not None and state.id == known.id else [state, *between]
    return between


async def force_state(client: PrefectClient, run: FlowRun, state: State[Any]) -> State[Any]:
    """Set a state past Prefect's orchestration rules, unless the run was cancelled since it was read.

    Args:
        client: Prefect's.
        run: as it was read, before the decision to set the state.
        state: the new one. Forced, because the run may be paused or in a final state.

    Returns:
        The state that the run has now: the one that was set, or that of the cancellation.
    """
    ours = (await client.set_flow_run_state(run.id, state, force=True)).state
    for asked in await set_meanwhile(client, run.id, run.state, ours):
        if is_cancelled(asked):
            await restore(client, run.id, asked)
            return asked
    return ours or state


async def restore(client: PrefectClient, run_id: UUID, overwritten: State) -> None:
    """Set a state again that was overwritten."""
    again: State[Any] = State(
        type=overwritten.type, name=overwritten.name, message=overwritten.message
    )
    await client.set_flow_run_state(run_id, again, force=True)
