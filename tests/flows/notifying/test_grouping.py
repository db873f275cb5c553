"""However many jobs there are: no storm, and nothing is lost or told twice."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from flows.notifying.destinations import Destination
from flows.notifying.grouping import GATHER_SECONDS, turn
from flows.notifying.outbox import SentRecord
from flows.notifying.words import MOST_LINES, message_of

NIGHT = {"start": "22:00", "end": "07:00", "time_zone": "UTC", "urgent": ["failed"]}
MIDNIGHT = datetime(2026, 1, 10, tzinfo=UTC).timestamp()
MORNING = MIDNIGHT + 7 * 3600
NOON = MIDNIGHT + 12 * 3600


def event(number: int, at: float, what: str = "completed") -> dict:
    job = {"id": f"{number}", "name": f"job-{number}"}
    return {"id": f"{what}-{number}", "what": what, "at": at, "job": job}


def played(receiver: Destination, events: list[dict], begin: float) -> list[tuple[float, list]]:
    """Return what is sent when, by looking whenever there is something to do."""
    record, sent, waiting, now = SentRecord(), [], [], begin
    coming = sorted(events, key=lambda one: one["at"])
    while coming or waiting:
        while coming and coming[0]["at"] <= now:
            waiting.append(coming.pop(0))
        found = turn(receiver, record, waiting, now)
        if found.now:
            sent.append((now, list(found.now)))
            record.last = now
            waiting = [one for one in waiting if one not in found.now]
        moments = [found.at] if found.at else []
        moments += [coming[0]["at"]] if coming else []
        if moments:
            now = max(now, min(moments))
    return sent


def test_a_hundred_jobs_that_end_together_send_one_message():
    events = [event(n, NOON + n / 50) for n in range(100)]

    (only,) = played(Destination(to="CHAT"), events, NOON)

    assert only[0] == NOON + GATHER_SECONDS
    told = message_of(only[1])
    assert told.title == "100 messages of 100 jobs: 100 completed"
    assert told.body.splitlines()[-1] == f"and {100 - MOST_LINES} more"
    assert len(told.events) == 100


def test_what_is_worst_is_never_cut_off():
    events = [event(n, NOON) for n in range(100)] + [event(100, NOON, "failed")]

    told = message_of(events)

    assert told.body.splitlines()[0] == "job-100 has failed"
    assert told.level == "failure"


@given(
    moments=st.lists(st.floats(0, 600), min_size=1, max_size=40),
    group_seconds=st.floats(1, 120),
    night=st.booleans(),
)
def test_every_event_is_told_once_and_messages_keep_their_distance(moments, group_seconds, night):
    begin = MORNING - 300 if night else NOON
    quiet = {**NIGHT, "urgent": []} if night else None
    receiver = Destination(to="CHAT", group_seconds=group_seconds, quiet_hours=quiet)
    events = [event(number, begin + at) for number, at in enumerate(moments)]

    sent = played(receiver, events, begin)

    assert sorted(one["id"] for _, some in sent for one in some) == sorted(e["id"] for e in events)
    times = [at for at, _ in sent]
    assert all(
        later - sooner >= group_seconds - 1e-3 for sooner, later in itertools.pairwise(times)
    )
    assert all(at >= one["at"] for at, some in sent for one in some)
    latest = max(MORNING if night else 0.0, begin + max(moments))
    assert times[-1] <= latest + group_seconds + GATHER_SECONDS + 1e-3
    if night:
        assert times[0] >= MORNING


def test_at_night_only_what_is_urgent_is_told():
    receiver = Destination(to="CHAT", quiet_hours=NIGHT)
    events = [event(1, MIDNIGHT), event(2, MIDNIGHT, "failed"), event(3, MIDNIGHT + 600)]

    first, second = played(receiver, events, MIDNIGHT)

    assert (first[0], [one["id"] for one in first[1]]) == (MIDNIGHT + GATHER_SECONDS, ["failed-2"])
    assert (second[0], [one["id"] for one in second[1]]) == (
        MORNING,
        ["completed-1", "completed-3"],
    )


def test_a_clock_that_was_set_back_keeps_nobody_waiting():
    record = SentRecord(last=NOON + 1e6, retry_at=NOON + 1e6)

    assert turn(Destination(to="CHAT"), record, [event(1, NOON + 1e6)], NOON, hurry=True).now


def test_a_receiver_that_failed_is_left_alone_meanwhile():
    record = SentRecord(retry_at=NOON + 30, failures=1)

    found = turn(Destination(to="CHAT"), record, [event(1, NOON - 60)], NOON)

    assert (found.now, found.at) == ((), NOON + 30)
