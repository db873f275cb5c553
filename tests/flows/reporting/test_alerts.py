"""What a platform is alerted of, with the fields of its contract."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from flows.reporting import alerts
from flows.reporting.reporter import reporting
from flows.reporting.spool import Spool
from flows.run_folder import RunFolder
from tests.flows.flow_runs import make_job
from tests.flows.reporting.receiver import USER, lines_of
from tests.waiting import until
from trainer.config import Limits
from trainer.contract.errors import OutOfMemory, TrainingDiverged
from trainer.contract.events import Kind, note_event
from trainer.contract.job_directory import JobDirectory

pytestmark = pytest.mark.usefixtures("hasty")
FULL = "Memory ran out (OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB)."


def note_restart(run: RunFolder, why: str) -> None:
    """Note what the supervisor notes when it starts the trainer with a smaller batch."""
    line = f"restart with batch size 4 instead of 8 after OutOfMemory: {why}"
    error = OutOfMemory(why).to_dict()
    job = JobDirectory(run.root)
    note_event(job, Kind.OUT_OF_MEMORY, line, step=1, error=error, batch_divisor=2)


async def test_a_completed_job_is_told_from_its_start_to_its_end(run, receiver):
    receiver.start()
    job = make_job()

    async with reporting(job, run):
        alerts.started(run, 10)
        alerts.started(run, 10)  # the flow attached anew
        run.metrics.write_text(lines_of(range(1, 11), total=10))
        alerts.completed(run)

    assert receiver.types == ["job_started", "job_completed"]
    began, ended = receiver.alerts
    assert began == {
        "type": "job_started",
        "job_id": run.run_id,
        "user_id": USER,
        "model_name": job.training.model,
        "status": "running",
        "progress": 0.0,
        "current_step": 0,
        "total_steps": 10,
        "duration": 0,
    }
    assert ended | {"duration": 0} == began | {
        "type": "job_completed",
        "status": "completed",
        "progress": 100.0,
        "current_step": 10,
        "loss": 5 / 11,
    }


async def test_a_failed_job_tells_why_and_how_far_it_came(run, receiver, monkeypatch):
    monkeypatch.setenv("JOB_ID", "the-platforms-own-id")
    monkeypatch.setenv("MODEL_NAME", "the-platforms-own-name")
    receiver.start()
    run.metrics.write_text(lines_of(range(1, 501)))

    async with reporting(make_job(), run):
        alerts.failed(run, TrainingDiverged("At step 500 the loss was nan."))

    (alert,) = receiver.alerts
    assert (alert["type"], alert["status"]) == ("job_failed", "failed")
    assert (alert["job_id"], alert["progress"]) == ("the-platforms-own-id", 50.0)
    assert (alert["current_step"], alert["total_steps"]) == (500, 1000)
    assert alert["model_name"] == "the-platforms-own-name"
    assert alert["error_message"] == "At step 500 the loss was nan."
    assert alert["error_type"] == "TrainingDiverged"


async def test_a_cancelled_job_says_so_once(run, receiver):
    receiver.start()

    async with reporting(make_job(), run):
        alerts.cancelled(run, "cancelled; saved at step 12")
        alerts.cancelled(run, "cancelled")  # Prefect calls its hook too

    (alert,) = receiver.alerts
    assert alert["type"] == "job_cancelled"
    assert alert["error_message"] == "cancelled; saved at step 12"


async def test_a_job_that_fails_again_after_a_resume_tells_again(run, receiver):
    receiver.start()
    for _ in range(2):
        async with reporting(make_job(), run):
            alerts.failed(run, TrainingDiverged("nan"))

    assert receiver.types == ["job_failed", "job_failed"]


async def test_a_cancel_that_came_too_late_does_not_undo_the_completion(run, receiver):
    receiver.start()

    async with reporting(make_job(), run):
        alerts.completed(run)
        alerts.cancelled(run, "cancelled")

    assert receiver.types == ["job_started", "job_completed"]


async def test_memory_that_ran_out_on_a_gpu_is_told_though_training_goes_on(run, receiver):
    receiver.start()

    for _ in range(2):  # the flow is started anew, and reads the events again
        async with reporting(make_job(), run):
            if not run.events.exists():
                note_restart(run, FULL)
            await until(lambda: receiver.alerts)

    (alert,) = receiver.alerts
    assert (alert["type"], alert["status"]) == ("gpu_oom", "running")
    assert (alert["error_type"], alert["error_message"]) == ("CUDA_OOM", FULL)


async def test_a_gpu_that_is_full_at_last_fails_the_job_with_its_own_type(run, receiver):
    receiver.start()

    async with reporting(make_job(), run):
        alerts.failed(run, OutOfMemory(FULL))

    assert receiver.types == ["gpu_oom", "job_failed"]
    assert {alert["error_type"] for alert in receiver.alerts} == {"CUDA_OOM"}


async def test_main_memory_that_ran_out_is_no_gpus(run, receiver):
    receiver.start()
    note_restart(run, "Memory ran out (MemoryError).")

    async with reporting(make_job(), run):
        alerts.failed(run, OutOfMemory("Memory ran out (MemoryError)."))

    assert [alert["error_type"] for alert in receiver.alerts] == ["OutOfMemory"]
    assert receiver.types == ["job_failed"]


async def test_a_limit_that_is_nearly_reached_is_told_once(run, receiver):
    receiver.start()
    job = make_job().model_copy(update={"limits": Limits(max_runtime_minutes=10)})

    async with reporting(job, run):
        alerts.supervisor_started(run)
        await until(lambda: Spool(run).who().supervised_since)
        assert receiver.alerts == []
        spool = Spool(run)
        spool.save_who(replace(spool.who(), supervised_since=time.time() - 0.91 * 600))
        await until(lambda: receiver.alerts)

    (alert,) = receiver.alerts
    assert (alert["type"], alert["status"]) == ("timeout_warning", "running")
    assert alert["error_message"] == "90 % of limits.max_runtime_minutes = 10 is over."


async def test_alerts_wait_for_a_receiver_that_is_down_and_keep_their_order(run, receiver):
    async with reporting(make_job(), run):
        alerts.started(run, 10)
        alerts.failed(run, TrainingDiverged("nan"))
        receiver.start()

    assert receiver.types == ["job_started", "job_failed"]
