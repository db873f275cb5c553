"""What happens to a job is written as data, once, and a full disk costs neither job nor event."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trainer.contract.events import Kind, note_event, parse_events, write_held
from trainer.contract.job_directory import JobDirectory
from trainer.contract.metrics import MAX_LINE

AT = "2026-01-31T12:00:00.000+00:00"


@pytest.fixture
def job(tmp_path: Path) -> JobDirectory:
    return JobDirectory(tmp_path)


def lines_of(job: JobDirectory) -> list[bytes]:
    return job.events.read_bytes().splitlines(keepends=True)


def test_an_event_is_read_as_it_was_noted(job):
    note_event(job, Kind.SAVED, "saved checkpoint-3", step=3, checkpoint="checkpoint-3")
    note_event(job, Kind.ROWS_DROPPED, "2 of 9 rows were dropped", dropped=2)

    saved, dropped = parse_events(lines_of(job))
    assert (saved.kind, saved.step, saved.message) == ("saved", 3, "saved checkpoint-3")
    assert saved.facts == {"checkpoint": "checkpoint-3"}
    assert (dropped.step, dropped.facts) == (None, {"dropped": 2})


def test_an_event_after_a_torn_one_begins_a_line(job):
    job.events.write_text('{"at": "2026-01')
    note_event(job, Kind.RESTART, "restart 1 of 2")

    assert [event.kind for event in parse_events(lines_of(job))] == ["restart"]


@pytest.mark.parametrize(
    "wrong",
    [
        b"rubbish",
        b"[1]",
        b"[" * 20_000,
        b'"text"',
        {"kind": "With Spaces"},
        {"kind": "x" * 41},
        {"kind": None},
        {"step": -1},
        {"step": 1.5},
        {"step": True},
        {"at": "yesterday"},
        {"at": None},
        {"message": None},
        {"message": "a\0b"},
        {"message": "x" * MAX_LINE},
        {"facts": [1]},
        {"facts": {"loss": float("nan")}},
        {"facts": {"loss": float("-inf")}},
        b'{"at": "%b", "step": 1, "kind": "saved", "message": "", "facts": {"a": [1e999]}}'
        % AT.encode(),
    ],
    ids=str,
)
def test_what_is_no_event_is_passed_over(wrong):
    good = {"at": AT, "step": 1, "kind": "saved", "message": "saved", "facts": {}}
    line = wrong if isinstance(wrong, bytes) else json.dumps(good | wrong).encode()

    found = parse_events([line + b"\n", json.dumps(good).encode() + b"\n"])

    assert [event.kind for event in found] == ["saved"]


def test_what_is_no_text_is_shown_as_such(job):
    name = b"caf\xe9.jsonl".decode(errors="surrogateescape")
    note_event(job, Kind.RESTART, f"after {name}", error={"message": f"{name} is gone"})

    (event,) = parse_events(lines_of(job))
    assert event.message == "after caf?.jsonl"
    assert event.cause == "caf?.jsonl is gone"


def test_a_full_disk_fails_nothing_and_its_events_are_written_later(job):
    job.events.symlink_to("/dev/full")
    note_event(job, Kind.DISK_FULL, "the disk is full")
    note_event(job, Kind.FALLBACK, "so be it")
    write_held(job)
    job.events.unlink()

    note_event(job, Kind.SAVED, "saved")

    kinds = [event.kind for event in parse_events(lines_of(job))]
    assert kinds == ["disk_full", "fallback", "saved"]
    write_held(job)
    assert len(lines_of(job)) == 3


def test_a_file_that_cannot_be_written_fails_nothing(job):
    job.events.mkdir()
    note_event(job, Kind.SAVED, "saved")
    job.events.rmdir()
    write_held(job)

    assert len(lines_of(job)) == 1


def test_what_a_resumed_training_comes_to_again_is_the_same_event_and_a_restart_is_not():
    def identities(kind: Kind) -> set[str]:
        records = [
            {"at": at, "step": 7, "kind": kind, "message": "again", "facts": {}}
            for at in (AT, "2026-01-31T13:00:00.000+00:00")
        ]
        return {event.identity for event in parse_events(json.dumps(r).encode() for r in records)}

    assert len(identities(Kind.LOSS_SPIKE)) == 1
    assert len(identities(Kind.RESTART)) == 2


def test_restarts_in_one_millisecond_are_events_of_their_own(job):
    for _ in range(50):
        note_event(job, Kind.RESTART, "restart 1 of 2", step=40, restarts=1)

    events = parse_events(job.events.read_bytes().splitlines())
    assert len({event.identity for event in events}) == 50
