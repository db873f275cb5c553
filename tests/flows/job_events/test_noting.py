"""Each thing that happens to a job is noted once, under an id that follows from the job alone."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from uuid import UUID, uuid4

import pytest
from prefect.client.schemas.objects import State, StateType
from prefect.states import Paused

from flows.job_events import noting
from flows.job_events.kinds import Happening, event_id, facts_of
from flows.job_events.noting import at_work_at_last, past
from flows.job_events.spool import EventSpool, unfinished
from flows.run_folder import RunFolder
from flows.scheduling.labels import BATCH, FOR, PROJECT, USER
from flows.shown import TRAINS
from trainer.contract.errors import TrainingFailed

LONG = timedelta(days=3650)


def history(*names: str) -> list[State]:
    """Return states, a second apart: a type of Prefect's, "trains", or "suspended" from outside."""
    began, states = datetime.now(UTC), []
    for number, name in enumerate(names):
        match name:
            case "trains":
                state = State(type=StateType.RUNNING, message=TRAINS)
            case "paused":
                state = Paused(timeout_seconds=int(LONG.total_seconds()))
            case "suspended":
                state = Paused(timeout_seconds=300)
            case _:
                state = State(type=StateType[name.upper()])
        states.append(state.model_copy(update={"timestamp": began + timedelta(seconds=number)}))
    return states[::-1]  # in no order that anybody may rely on


def a_run(**labels: str) -> SimpleNamespace:
    return SimpleNamespace(
        id=uuid4(),
        name="small",
        parameters={"job": {"training": {"model": "/m", "method": "dpo"}, "provider": "vast"}},
        labels=labels,
        tags=["nightly"],
        flow_id=uuid4(),
        deployment_id=uuid4(),
        work_queue_id=None,
        work_queue_name=None,
        work_pool_id=None,
        work_pool_name="local-gpu",
        state=None,
    )


def begun(run: SimpleNamespace, *, rests: int = 0, trained_before: bool = False) -> RunFolder:
    """Note that a flow begins to work on the run, as `noting.begin` does."""

    def change(noted):
        noted.facts, noted.rests = facts_of(run), rests
        noted.trained_before = trained_before

    EventSpool.of(str(run.id)).change(change)
    return RunFolder(run.id)


def names(run: SimpleNamespace) -> list[str]:
    events = EventSpool.of(str(run.id)).read().events
    return [event["event"].removeprefix("training-orchestrator.job.") for event in events]


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        (["scheduled", "pending", "running", "trains"], (0, False)),
        (["running", "trains", "crashed", "pending", "running"], (0, False)),
        (["running", "trains", "paused", "scheduled", "running"], (1, True)),
        (["running", "failed", "pending", "running", "trains"], (1, False)),
        (["running", "trains", "suspended", "running", "paused", "pending"], (1, True)),
        # The worker's own state, and ours after it, are one rest.
        (["running", "trains", "cancelled", "cancelled", "scheduled", "running"], (1, True)),
        (["running", "paused", "running", "trains", "failed", "pending"], (2, True)),
    ],
)
def test_a_rest_counts_once_the_job_goes_on_and_a_death_is_none(states, expected):
    assert past(history(*states)) == expected


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ([], False),
        (["scheduled", "cancelled"], False),
        (["scheduled", "pending", "cancelled"], False),
        (["running", "trains", "paused", "cancelled"], False),
        (["running", "trains", "paused", "scheduled", "cancelled"], False),
        (["running", "cancelling", "cancelled", "scheduled", "cancelled"], False),
        (["running", "cancelling", "cancelled", "cancelled"], True),
        (["scheduled", "running", "failed"], True),
        (["failed", "scheduled", "running", "failed"], True),
    ],
)
def test_who_notes_an_end_follows_from_whether_a_flow_was_at_work(states, expected):
    assert at_work_at_last(history(*states)) is expected


def test_a_job_that_is_followed_again_has_started_once_and_ends_once():
    run = begun(a_run_ := a_run())
    noting.trains(run)
    begun(a_run_)  # its process died, and another one goes on
    noting.trains(run)
    noting.rests(run, Happening.STOPPED, "cancelled")
    noting.rests(run, Happening.STOPPED, "cancelled; found by reconcile")
    assert names(a_run_) == ["started", "stopped"]


def test_what_follows_a_rest_is_a_resumption_with_ids_of_its_own():
    run = begun(a_run_ := a_run())
    noting.trains(run)
    noting.pauses(run, a_run_, "as asked")
    begun(a_run_, rests=1, trained_before=True)
    noting.trains(run)
    a_run_.labels = {FOR: "urgent"}
    a_run_.state = State(type=StateType.RUNNING, message="paused for job urgent")
    noting.pauses(run, a_run_, "for another")
    begun(a_run_, rests=2, trained_before=True)
    noting.trains(run)
    noting.fails(run, TrainingFailed("The loss is nan."))
    expected = ["started", "paused", "resumed", "preempted", "queued", "resumed", "failed"]
    assert names(a_run_) == expected
    events = EventSpool.of(str(a_run_.id)).read().events
    assert len({event["id"] for event in events}) == 7
    assert UUID(events[2]["id"]) == event_id(a_run_.id, Happening.RESUMED, 1)
    assert events[3]["payload"]["for"] == "urgent"
    assert UUID(events[4]["id"]) == event_id(a_run_.id, Happening.QUEUED, 2)
    assert events[6]["payload"]["error_type"] == "TrainingFailed"


def test_an_event_of_a_spoilt_training_is_json():
    run = begun(a_run_ := a_run())
    noting.rests(run, Happening.COMPLETED, metrics={"eval_loss": math.nan, "all": [math.inf, 1.5]})
    payload = EventSpool.of(str(a_run_.id)).read().events[-1]["payload"]
    assert payload["metrics"] == {"eval_loss": None, "all": [None, 1.5]}


def test_nothing_that_is_wrong_with_the_notes_harms_the_job():
    run = begun(a_run())
    EventSpool.of(run.run_id).file.write_text(
        '{"events": 7, "facts": {"payload": 1}, "rests": "x"}'
    )
    noting.trains(run)
    noting.fails(run, TrainingFailed("The loss is nan."))


def test_a_short_training_has_started_although_nobody_saw_it():
    run = begun(a_run_ := a_run())
    noting.rests(run, Happening.COMPLETED, output="/result")
    noting.rests(run, Happening.STOPPED, "too late")
    assert names(a_run_) == ["started", "completed"]
    run = begun(a_run_ := a_run(), rests=1, trained_before=True)
    noting.rests(run, Happening.COMPLETED)
    assert names(a_run_) == ["resumed", "completed"]


def test_gpu_seconds_are_those_between_start_and_rest(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("blocks.uptime.uptime", lambda: now[0])
    monkeypatch.setattr("flows.job_events.noting._gpus", lambda _: 4)
    run = begun(a_run_ := a_run())
    noting.trains(run)
    now[0] += 10
    noting.pauses(run, a_run_, "as asked")
    now[0] += 1000  # at rest, it has none
    begun(a_run_, rests=1, trained_before=True)
    noting.trains(run)
    now[0] += 5
    assert noting.used(run) == {"gpus": 4, "seconds": 15.0, "gpu_seconds": 60.0}
    noting.rests(run, Happening.COMPLETED)
    now[0] += 1000
    assert noting.used(run)["gpu_seconds"] == 60.0
    last = EventSpool.of(str(a_run_.id)).read().events[-1]["payload"]
    assert (last["seconds"], last["gpu_seconds"], last["cost_usd"]) == (15.0, 60.0, 0.0)


def test_an_event_says_whose_job_it_is_in_the_words_of_automations():
    run = a_run(**{USER: "ada", PROJECT: "handbook", BATCH: "b1"})
    facts = facts_of(run)
    assert facts["resource"] == {
        "prefect.resource.id": f"prefect.flow-run.{run.id}",
        "prefect.resource.name": "small",
        "training-orchestrator.user": "ada",
        "training-orchestrator.project": "handbook",
        "training-orchestrator.batch": "b1",
    }
    roles = {
        each["prefect.resource.role"]: each["prefect.resource.id"] for each in facts["related"]
    }
    assert roles["flow"] == f"prefect.flow.{run.flow_id}"
    assert roles["deployment"] == f"prefect.deployment.{run.deployment_id}"
    assert roles["tag"] == "prefect.tag.nightly"
    assert roles["batch"] == "training-orchestrator.batch.b1"
    assert "work-queue" not in roles
    assert facts["payload"]["job"]["method"] == "dpo"


def test_what_is_not_with_prefect_yet_is_marked_and_a_removed_run_is_forgotten():
    run = begun(a_run_ := a_run())
    assert unfinished() == []
    noting.trains(run)
    assert [spool.file.parent.name for spool in unfinished()] == [run.run_id]
    spool = EventSpool.of(run.run_id)
    spool.change(lambda noted: noted.settle({event["id"] for event in noted.waiting}))
    assert unfinished() == []
    assert names(a_run_) == ["started"]
    noting.rests(run, Happening.STOPPED)
    for file in run.root.iterdir():
        file.unlink()
    run.root.rmdir()
    assert unfinished() == []
