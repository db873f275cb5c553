"""Who is told of what: by installation, by user, by job, by batch."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from uuid import uuid4

import pytest

from flows import milestones
from flows.notifying import noting
from flows.notifying.destinations import file_of_home
from flows.notifying.of_alerts import tell_of_alert
from flows.notifying.of_batches import tell_of_batch
from flows.notifying.outbox import outboxes
from flows.notifying.sending import send_waiting
from flows.notifying.watching import JobWatch
from flows.renting import journal as journal_module
from flows.run_folder import RunFolder
from flows.scheduling.labels import BATCH, USER
from tests.flows.flow_runs import make_job
from tests.flows.notifying.conftest import tells, told
from trainer.config import Limits
from trainer.config.notifications import Notifications
from trainer.contract.errors import GpuSick, MachineLost, TimeUp, TrainingDiverged
from trainer.contract.events import Kind, note_event
from trainer.contract.job_directory import JobDirectory, JobState

REPORT = {"path": "/artifacts/small", "sha256": "ab12", "metrics": {"eval_loss": 0.5}}
LINK = "http://127.0.0.1:4200/runs/flow-run/1"


def begin(run, labels=None, link=LINK, **changes):
    return noting.begin(run, make_job().model_copy(update=changes), labels or {}, link)


def send_all() -> None:
    for outbox in outboxes():
        send_waiting(outbox, hurry=True)


def test_a_job_is_told_from_its_start_to_its_end(run, hook):
    begin(run)
    milestones.trains(run, 100)
    milestones.trains(run, 100)
    milestones.lost(run, MachineLost("runpod-1 is gone."))
    milestones.trains(run, 100)
    milestones.lost(run, GpuSick("GPU-1 fell off the bus."))
    milestones.trains(run, 100)
    milestones.completed(run, REPORT)
    send_all()

    assert told(hook) == [
        *("started", "machine_lost", "continued", "gpu_sick", "continued", "completed"),
    ]
    (message,) = hook.requests
    ended = message.json["events"][-1]
    assert (ended["output"], ended["eval_loss"], ended["link"]) == ("/artifacts/small", 0.5, LINK)
    assert ended["job"]["id"] == run.run_id
    assert message.json["events"][1]["suggestion"] == MachineLost.default_suggestion


def test_an_end_that_was_announced_is_no_loss(run, hook):
    begin(run)
    milestones.lost(run, TimeUp("The allocation's time is up."))

    assert outboxes() == []


def test_a_failure_says_what_to_do_and_one_after_a_resume_is_told_too(run, hook):
    for _ in range(2):
        begin(run)
        milestones.failed(run, TrainingDiverged("The loss was NaN."))
        milestones.failed(run, TrainingDiverged("The loss was NaN."))  # reconcile saw it as well
        send_all()

    assert told(hook) == ["failed", "failed"]
    assert hook.requests[0].json["title"] == "small has failed"
    assert hook.requests[0].json["message"].splitlines() == [
        "The loss was NaN.",
        f"→ {TrainingDiverged.default_suggestion}",
        LINK,
    ]


def test_where_nobody_is_told_nothing_is_written(run, home):
    assert begin(run) == []
    milestones.failed(run, TrainingDiverged("nan"))

    assert not (home / "notifications").exists()
    assert not (run.root / noting.FILE).exists()


def test_each_is_told_what_they_asked_for(run, hook):
    url = hook.url
    tells(
        to=[{"to": f"{url}/all", "key": "HOOK_KEY", "events": ["failed"]}],
        users={
            "ada": {"to": [{"to": f"{url}/ada", "key": "HOOK_KEY"}], "events": ["started"]},
            "bob": {"to": [{"to": f"{url}/bob", "key": "HOOK_KEY"}]},
        },
    )
    own = {"to": [{"to": f"{url}/own", "key": "HOOK_KEY"}], "events": ["started", "failed"]}
    begin(run, {USER: "ada"}, notifications=Notifications.model_validate(own))
    milestones.trains(run, 10)
    milestones.failed(run, TrainingDiverged("nan"))
    milestones.stopped(run, "as asked")
    send_all()

    got = {one.path: [e["what"] for e in one.json["events"]] for one in hook.requests}
    assert got == {"/all": ["failed"], "/ada": ["started"], "/own": ["started", "failed"]}


def test_a_file_that_is_not_right_is_said_and_harms_no_job(run, home, caplog):
    file_of_home().write_text("to: [slack://a/b/TIiajkdnlazkcOXrIdevi7FQ]\n")
    assert begin(run) == []
    milestones.failed(run, TrainingDiverged("nan"))

    assert "notifications.yaml" in caplog.text
    assert "TIiajkdnlazkcOXrIdevi7FQ" not in caplog.text


def test_a_disk_that_takes_nothing_harms_no_job(run, hook, monkeypatch, caplog):
    begin(run)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("flows.notifying.outbox.replace_json", full)
    milestones.failed(run, TrainingDiverged("nan"))

    assert "nobody is told that the job is failed" in caplog.text


def test_a_hundred_jobs_that_fail_together_send_one_message(hook):
    tells(to=[{"to": hook.url, "key": "HOOK_KEY"}], group_seconds=600)
    runs = [RunFolder(uuid4()) for _ in range(100)]

    def fail(run: RunFolder) -> None:
        begin(run)
        milestones.failed(run, TrainingDiverged("nan"))

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(fail, runs))
    send_all()
    send_all()

    (only,) = hook.requests
    assert only.json["title"] == "100 messages of 100 jobs: 100 failed"


def flow_run(batch: str, state: str, message: str = "") -> SimpleNamespace:
    return SimpleNamespace(
        id=uuid4(),
        labels={BATCH: batch, USER: "ada"},
        parameters={"job": {}},
        start_time=None,
        end_time=None,
        state=SimpleNamespace(message=message, name=state, type=SimpleNamespace(value=state)),
    )


def test_a_batch_sends_one_message_and_not_one_a_job(hook, monkeypatch):
    runs = [RunFolder(uuid4()) for _ in range(100)]
    for run in runs:
        begin(run, {BATCH: "grid", USER: "ada"})
        milestones.trains(run, 10)
        milestones.failed(run, TrainingDiverged("nan"))
        milestones.completed(run, REPORT)
    assert outboxes() == []

    ended = [flow_run("grid", "failed", "DataError: row 3") for _ in range(3)]
    monkeypatch.setattr("flows.notifying.of_batches.job_state", lambda _: JobState.FAILED)
    event = {
        "id": str(uuid4()),
        "payload": {
            "batch": "grid",
            "user": "ada",
            "completed": 97,
            "failed": 3,
            "cost_usd": 4.5,
            "jobs": {f"lr-{number}": str(run.id) for number, run in enumerate(ended)},
        },
    }
    tell_of_batch(ended, event)
    tell_of_batch(ended, event)
    send_all()

    (only,) = hook.requests
    assert only.json["title"] == "batch grid is at its end"
    assert only.json["level"] == "failure"
    assert only.json["message"].splitlines() == [
        "97 completed, 3 failed",
        "cost (USD) 4.5",
        *(f"lr-{number}: DataError: row 3" for number in range(3)),
    ]


def test_each_job_of_a_batch_is_told_where_that_is_asked_for(run, hook):
    tells(to=[{"to": hook.url, "key": "HOOK_KEY"}], batches="each", group_seconds=0)
    begin(run, {BATCH: "grid"})
    milestones.trains(run, 10)
    send_all()

    assert told(hook) == ["started"]


def test_money_and_time_and_memory_and_progress_are_watched(run, hook, monkeypatch):
    tells(to=[{"to": hook.url, "key": "HOOK_KEY"}], progress_percent=25, group_seconds=0)
    limits = Limits(max_cost=10, max_runtime_minutes=10)
    job = make_job().model_copy(update={"limits": limits})
    spent = [1.0]
    monkeypatch.setattr(journal_module.Journal, "cost", lambda _: spent[0])
    watch = JobWatch(job, run, noting.begin(run, job, {}, ""))

    def seen() -> list[str]:
        before = len(told(hook))
        watch.look()
        watch.look()
        send_all()
        return told(hook)[before:]

    run.metrics.write_text('{"step": 20, "total_steps": 100, "train_loss": 2.0}\n')
    assert seen() == []
    with run.metrics.open("a") as stream:
        stream.write('{"step": 60, "total_steps": 100, "train_loss": 1.5}\n')
    assert seen() == ["progress"]
    assert hook.requests[-1].json["title"] == "small is at 50 %"
    spent[0] = 8.1
    assert seen() == ["budget"]
    assert hook.requests[-1].json["title"] == "small has spent 80 % of its money"
    spent[0] = 10.0
    assert seen() == ["budget"]
    noting._change(run, supervised_since=time.time() - 0.91 * 600)
    assert seen() == ["timeout_warning"]
    for error in ("CUDA out of memory.", "Main memory ran out."):
        facts = {"error": {"message": error}}
        note_event(JobDirectory(run.root), Kind.OUT_OF_MEMORY, "smaller batch", step=3, **facts)
    assert seen() == ["gpu_oom"]
    again = JobWatch(job, run, noting.begin(run, job, {}, ""))  # by the next flow
    again.look()
    send_all()
    assert told(hook)[-1:] == ["gpu_oom"]


ALERT = {"type": "job_failed", "job_id": "theirs-1", "user_id": "ada", "model_name": "llama"}


def test_an_alert_from_elsewhere_is_told_once(hook):
    alert = {**ALERT, "error_message": "CUDA out of memory", "current_step": 5, "total_steps": 9}

    assert [tell_of_alert(alert), tell_of_alert(alert)] == [1, 1]
    send_all()

    (only,) = hook.requests
    assert only.json["title"] == "theirs-1 (llama) has failed"
    assert only.json["message"].splitlines() == ["CUDA out of memory", "step 5 of 9"]


def test_an_alert_of_a_run_of_ours_tells_nothing_twice(run, hook):
    begin(run)
    milestones.failed(run, TrainingDiverged("nan"))
    tell_of_alert({**ALERT, "job_id": run.run_id, "error_message": "nan"})
    tell_of_alert({**ALERT, "type": "gpu_oom", "job_id": run.run_id, "error_message": "CUDA"})
    send_all()

    assert told(hook) == ["failed", "gpu_oom"]


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        *[("job_started", "started"), ("job_completed", "completed"), ("job_failed", "failed")],
        *[("job_cancelled", "stopped"), ("gpu_oom", "gpu_oom")],
        ("timeout_warning", "timeout_warning"),
    ],
)
def test_every_alert_has_its_word(hook, kind, what):
    tell_of_alert({**ALERT, "type": kind})
    send_all()

    assert told(hook) == [what]
