"""Note what happens to the job of a run, from where its flow, or reconcile, decides it.

Nothing here raises, or waits for Prefect: `flows.job_events.sending` does that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from prefect.client.schemas.objects import FlowRun, State, StateType

from blocks.uptime import Moment
from flows.job_events.kinds import (
    BEGINS,
    ONCE,
    RESTS,
    Happening,
    event_name,
    event_of,
    facts_of,
)
from flows.job_events.spool import EventSpool, Noted
from flows.logger import logger
from flows.prefect_api import UNANSWERED, asking_once, prefect_client
from flows.renting.journal import Journal
from flows.run_folder import RunFolder
from flows.scheduling.preempting import preempted_for
from flows.shown import TRAINS
from flows.suspending import is_suspended
from trainer.contract.errors import OrchestratorError
from trainer.contract.metrics import read_metrics

_AT_REST = {StateType.COMPLETED, StateType.FAILED, StateType.CANCELLED}


async def begin(run: RunFolder, flow_run: FlowRun) -> None:
    """Note that a flow begins to work on a run: for the first time, or once more."""
    is_first = flow_run.run_count <= 1  # Prefect counts the present execution
    states: list[State] | None = [] if is_first else None
    if states is None:
        with suppress(*UNANSWERED):
            async with prefect_client() as client:
                with asking_once():
                    states = await client.read_flow_run_states(flow_run.id)

    def change(noted: Noted) -> None:
        noted.facts, noted.is_first = facts_of(flow_run), is_first
        if states is not None:
            noted.rests, noted.trained_before = past(states)
        elif _last(noted, BEGINS | RESTS) in RESTS:  # Prefect is away: what is noted here has to do
            noted.rests += 1
        # Prefect may not have been told that it trained.
        trained = any(e["event"] == event_name(Happening.STARTED) for e in noted.events)
        noted.trained_before = noted.rests > 0 and (noted.trained_before or trained)
        _add(noted, Happening.SUBMITTED, submitted_at(flow_run))

    _change(run, change)


def past(states: Sequence[State]) -> tuple[int, bool]:
    """Return how often a run came to rest and went on, and whether it trained before it last did."""
    rests, trains, trained_before, was_at_rest = 0, False, False, False
    for state in sorted(states, key=lambda each: each.timestamp):
        is_pause = state.type is StateType.PAUSED and not is_suspended(state)
        is_at_rest = is_pause or state.type in _AT_REST
        if was_at_rest and not is_at_rest:
            rests, trained_before = rests + 1, trains
        was_at_rest = is_at_rest
        trains = trains or (state.type is StateType.RUNNING and state.message == TRAINS)
    return rests, trained_before


def at_work_at_last(states: Sequence[State]) -> bool:
    """Whether a flow worked on a run when it came to its end."""
    waited = False
    for state in sorted(states, key=lambda each: each.timestamp, reverse=True):
        if state.type in {StateType.RUNNING, StateType.CANCELLING, StateType.CRASHED}:
            return True
        # A last state may be set twice: Prefect's worker sets its own, and `flows.last_word` ours.
        if state.type is StateType.PAUSED or (waited and state.type in _AT_REST):
            return False
        waited = waited or state.type in {StateType.SCHEDULED, StateType.PENDING}
    return False


def trains(run: RunFolder) -> None:
    """The job trains: for the first time, or again; also called when it is merely followed again."""

    def change(noted: Noted) -> None:
        if noted.began:
            return
        gpus = _gpus(run)
        _add(noted, _beginning(noted), gpus=gpus, cost_usd=Journal.of(run).cost())
        noted.began, noted.gpus = Moment.now().to_dict(), gpus

    _change(run, change)


def _beginning(noted: Noted) -> Happening:
    return Happening.RESUMED if noted.trained_before else Happening.STARTED


def rests(run: RunFolder, what: Happening, reason: str = "", **payload: Any) -> None:
    """The job has come to rest; noted once, however many processes bring it there."""

    def change(noted: Noted) -> None:
        if _last(noted, BEGINS | RESTS) == Happening.COMPLETED:
            return  # a request that came too late
        cost, step = Journal.of(run).cost(), max(read_metrics(run.metrics)[0], default=0)
        found: dict[str, Any] = {"reason": reason, "step": step, "cost_usd": cost}
        if what is Happening.COMPLETED and not noted.began:
            # Of a short training that was never seen while it trained.
            _add(noted, _beginning(noted), gpus=_gpus(run), cost_usd=cost)
        _let_go(noted)
        _add(noted, what, **_used(noted), **found, **payload)

    _change(run, change)


def lets_go(run: RunFolder) -> None:
    """The job has no GPUs any more, and has not come to rest: it is tried again later."""
    _change(run, _let_go)


def _let_go(noted: Noted) -> None:
    used = _used(noted)
    noted.seconds, noted.gpu_seconds, noted.began = used["seconds"], used["gpu_seconds"], {}


def pauses(run: RunFolder, flow_run: FlowRun, reason: str) -> None:
    """The job has paused: as somebody asked, or for another job.

    Args:
        run: its folder.
        flow_run: as it was read before its state became the pause.
        reason: in words.
    """
    whom = preempted_for(flow_run)
    what, facts = (Happening.PREEMPTED, {"for": whom}) if whom else (Happening.PAUSED, {})
    rests(run, what, reason, **facts)
    if whom:  # and back in the queue
        _change(run, lambda noted: _add(noted, Happening.QUEUED, after=1, reason=reason))


def fails(run: RunFolder, error: OrchestratorError) -> None:
    """The job has failed."""
    rests(run, Happening.FAILED, error.message, error_type=type(error).__name__)


def used(run: RunFolder) -> dict[str, Any]:
    """Return the GPUs that a job has or had last, and for how long it had any: see docs/queue.md."""
    return _used(EventSpool.of(run.run_id).read())


def _used(noted: Noted) -> dict[str, Any]:
    began = Moment.read(noted.began)
    seconds = began.seconds_since() if began else 0.0
    return {
        "gpus": noted.gpus,
        "seconds": round(noted.seconds + seconds, 3),
        "gpu_seconds": round(noted.gpu_seconds + seconds * noted.gpus, 3),
    }


def _gpus(run: RunFolder) -> int:
    """Return on how many GPUs a job trains, on all its machines together."""
    hires = Journal.of(run).hires
    last = hires[-1].attempt if hires else 0
    return sum(hire.machine.get("gpu_count") or 0 for hire in hires if hire.attempt == last)


def _add(
    noted: Noted, what: Happening, at: datetime | None = None, *, after: int = 0, **payload: Any
) -> bool:
    """Note an event, if it is not noted; `after`: how many rests of the job are to be counted more."""
    if not noted.facts:  # no flow ever began to work on it
        return False
    rests = 0 if what in ONCE else noted.rests + after
    at = at or datetime.now(UTC)
    return noted.add(event_of(noted.facts, what, rests=rests, at=at, **payload))


def submitted_at(run: FlowRun) -> datetime | None:
    """Return when a job was asked for; one of a schedule is when its time comes."""
    return run.expected_start_time if run.auto_scheduled else run.created


def _last(noted: Noted, among: frozenset[Happening]) -> Happening | None:
    kinds = [Happening(event["event"].rpartition(".")[2]) for event in noted.events]
    return next((kind for kind in reversed(kinds) if kind in among), None)


def _change(run: RunFolder, change: Callable[[Noted], object]) -> None:
    try:
        EventSpool.of(run.run_id).change(change)
    except Exception as error:  # noqa: BLE001 - the outer edge: no event is worth a job
        logger().warning(
            "an event of the job could not be noted (%s: %s)", type(error).__name__, error
        )
