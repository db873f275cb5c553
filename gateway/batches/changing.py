"""Cancel, pause, resume and retry a batch as one.

What waits is changed in Prefect alone, for nothing that waits holds anything; what is at work is asked,
as single jobs are. What waits goes first, so that nothing starts in the place of what is stopped. Each
look finds what started meanwhile, until nothing is left to be asked.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from flows.batches.members import is_skipped
from flows.saved import STOPPED
from flows.scheduling.dependencies import Member
from flows.shown import PAUSING, state_of
from gateway.batches.finding import members_of
from gateway.prefect.client import JobRun, LightClient
from trainer.contract.errors import ConfigError, OrchestratorError
from trainer.contract.job_directory import JobState

AT_ONCE = 50  # runs whose state one call of Prefect's API sets at most
POLL_SECONDS = 1.0
LOOKS = 5  # at a batch, before what still waits counts as refused
# The server fails a paused run when its time is over, and ours should never be.
PAUSED_FOR = timedelta(days=3650)
ENDED = {JobState.COMPLETED, JobState.FAILED, JobState.STOPPED}

Pair = tuple[JobRun, Member]


@dataclass(frozen=True, slots=True, kw_only=True)
class Changed:
    """What was done to the jobs of a batch."""

    at_once: int
    """How many needed no worker for it."""
    asked: int
    """How many were at work, and will do it themselves."""


def cancel(client: LightClient, batch: str) -> Changed:
    """Stop what runs, with a saved checkpoint, and whatever waits or is paused.

    Raises:
        ConfigError: there is no such batch, or nothing of it is left to stop.
    """

    def waits(pair: Pair) -> bool:
        return pair[1].state in {JobState.CREATED, JobState.PAUSED}

    state = {"type": "CANCELLED", "name": STOPPED, "message": "its batch was cancelled"}
    done = _change(client, batch, waits, ["SCHEDULED", "PAUSED"], state, _ask_to_stop)
    if not done.at_once and not done.asked:
        raise ConfigError(
            f"Every job of batch {batch} has ended; there is nothing to cancel.",
            f"See: trainctl batches show {batch}",
        )
    return done


def pause(client: LightClient, batch: str) -> Changed:
    """Pause what runs, with a saved checkpoint, and take from the queue what waits.

    Raises:
        ConfigError: there is no such batch, or nothing of it is left to pause.
    """

    def waits(pair: Pair) -> bool:
        return pair[1].state is JobState.CREATED

    state = _paused("its batch is paused")
    done = _change(client, batch, waits, ["SCHEDULED"], state, _ask_to_pause)
    if not done.at_once and not done.asked:
        raise ConfigError(
            f"Nothing of batch {batch} waits or runs; there is nothing to pause.",
            f"See: trainctl batches show {batch}",
        )
    return done


def pause_waiting(client: LightClient, run: JobRun) -> bool:
    """Take a single job from the queue if it waits there; return whether it did."""
    if state_of(run.state) is not JobState.CREATED:
        return False
    # Unless a worker has taken it in this moment.
    state = _paused("paused while it waited in the queue")
    results = client.set_states([run.id], ["SCHEDULED"], state, force=True)
    return any(one.get("status") == "ACCEPT" for one in results)


def _paused(message: str) -> dict[str, Any]:
    until = datetime.now(UTC) + PAUSED_FOR
    details = {"pause_timeout": until.isoformat(), "pause_reschedule": True}
    return {"type": "PAUSED", "message": message, "state_details": details}


def resume(client: LightClient, batch: str) -> int:
    """Go on with what is paused; return how many jobs that were.

    Raises:
        ConfigError: there is no such batch, or nothing of it is paused.
    """
    paused = [pair for pair in members_of(client, batch) if pair[1].state is JobState.PAUSED]
    if not paused:
        raise ConfigError(
            f"Nothing of batch {batch} is paused.", f"See: trainctl batches show {batch}"
        )
    return _schedule(client, paused)


def retry(client: LightClient, batch: str, *, failed_only: bool) -> int:
    """Execute jobs again that ended without being completed; return how many.

    Each goes on from its newest checkpoint. What could never start because of them waits for them again.

    Args:
        client: of Prefect's API.
        batch: its name.
        failed_only: leave those that were stopped by a person.

    Raises:
        ConfigError: there is no such batch, or nothing of it is to be retried.
    """
    members = members_of(client, batch)
    ended = {JobState.FAILED} if failed_only else {JobState.FAILED, JobState.STOPPED}
    again = [pair for pair in members if pair[1].state in ended or is_skipped(pair[0])]
    if not any(pair[1].state in ended and not is_skipped(pair[0]) for pair in again):
        what = "failed" if failed_only else "failed or was stopped"
        raise ConfigError(f"No job of batch {batch} {what}.", f"See: trainctl batches show {batch}")
    return _schedule(client, again)


def _change(
    client: LightClient,
    batch: str,
    waits: Callable[[Pair], bool],
    types: list[str],
    state: dict[str, Any],
    ask: Callable[[LightClient, Pair], bool],
) -> Changed:
    """Set the state of what waits, and ask what is at work, until nothing waits any more."""
    set_ids: set[str] = set()
    asked: set[str] = set()
    for look in range(LOOKS):
        if look:
            time.sleep(POLL_SECONDS)
        members = members_of(client, batch)
        waiting = [pair for pair in members if waits(pair) and _type_of(pair) in types]
        # The last ones first: those that come after others must not find them ended, and start.
        set_ids |= _set(client, list(reversed(waiting)), types, state)
        for pair in members:
            is_at_work = not waits(pair) and not pair[1].has_ended
            if is_at_work and pair[1].id not in asked and ask(client, pair):
                asked.add(pair[1].id)
        if not waiting and not any(_is_starting(pair) for pair in members):
            break
    return Changed(at_once=len(set_ids), asked=len(asked))


def _type_of(pair: Pair) -> str:
    return pair[0].state.type if pair[0].state else "SCHEDULED"


def _is_starting(pair: Pair) -> bool:
    """Whether a worker has taken a run that does not hear anything yet."""
    return _type_of(pair) == "PENDING"


def _ask_to_stop(client: LightClient, pair: Pair) -> bool:
    run, type_of_state = pair[0], _type_of(pair)
    if type_of_state == "CANCELLING":
        return False
    # A crashed one is executed again, and its training may go on.
    client.set_state(run.id, "CANCELLING", force=type_of_state == "CRASHED")
    return True


def _ask_to_pause(client: LightClient, pair: Pair) -> bool:
    # One that waits for a worker to attach again would not be found by it any more.
    if _type_of(pair) != "RUNNING" or (pair[0].state and pair[0].state.name == PAUSING):
        return False
    client.set_state(pair[0].id, "RUNNING", force=True, name=PAUSING)
    return True


def _schedule(client: LightClient, pairs: Sequence[Pair]) -> int:
    """Put jobs back into the queue, those that never ran at their old places."""
    begun = [pair for pair in pairs if pair[0].start_time is not None]
    resting = ["PAUSED", "FAILED", "CANCELLED"]
    done = _set(client, begun, resting, {"type": "SCHEDULED", "name": "Resuming"})
    for run, one in pairs:
        if run.start_time is None and run.created is not None:
            # One by one: each has a place of its own, which is the time of its state.
            place = {"scheduled_time": run.created.isoformat()}
            client.set_state(run.id, "SCHEDULED", force=True, name="Queued", state_details=place)
            done.add(one.id)
    return len(done)


def _set(
    client: LightClient, pairs: Sequence[Pair], types: list[str], state: dict[str, Any]
) -> set[str]:
    """Set the state of runs, and return the ids of those that took it.

    Raises:
        OrchestratorError: Prefect refused one; those before it have it.
    """
    done: set[str] = set()
    for start in range(0, len(pairs), AT_ONCE):
        some = [run.id for run, _ in pairs[start : start + AT_ONCE]]
        results = client.set_states(some, types, state, force=True)
        done |= {str(one.get("flow_run_id")) for one in results if one.get("status") == "ACCEPT"}
        if refused := [one for one in results if one.get("status") != "ACCEPT"]:
            reason = (refused[0].get("details") or {}).get("reason") or "no reason given"
            raise OrchestratorError(
                f"Prefect did not change {len(refused)} of {len(results)} jobs: {reason}.",
                "Try again: what is changed stays so.",
            )
    return done


def until_rest(
    client: LightClient, batch: str, say: Callable[[Iterable[Pair]], None]
) -> list[Pair]:
    """Look at a batch until no job of it waits or works; return its jobs.

    Args:
        client: of Prefect's API.
        batch: its name.
        say: called with the jobs at every look.
    """
    while True:
        members = members_of(client, batch)
        say(members)
        if all(one.state.at_rest for _, one in members):
            return members
        time.sleep(POLL_SECONDS)
