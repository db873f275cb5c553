"""What the end of a trainer means and what follows: pure decisions, without a process."""

import signal
from dataclasses import replace

import pytest

from trainer.contract.errors import (
    ConfigError,
    ConnectionLost,
    DiskFull,
    OrchestratorError,
    OutOfMemory,
    TrainerKilled,
    TrainingDiverged,
)
from trainer.contract.events import Kind
from trainer.contract.job_directory import Control, Desired, JobState, Status
from trainer.supervision.restart_decision import (
    Ended,
    Terms,
    judge,
    next_divisor,
    read_terms,
    retry_after,
    signal_of,
    usable_divisor,
)
from trainer.supervision.watchdog import Observation, Order, next_order

TERMS = Terms(stall_seconds=60, grace_seconds=10)
PAUSE = Control(desired=Desired.PAUSE, reason="lunch")


def running(code: int, **facts: object) -> Ended:
    return Ended(code=code, status=Status(state=JobState.RUNNING), **facts)


def failed(error: OrchestratorError, **facts: object) -> Ended:
    status = Status(state=JobState.FAILED, error=error.to_dict())
    return Ended(code=1, status=status, **facts)


@pytest.mark.parametrize(
    ("batch_size", "divisor", "following"),
    [(8, 1, 2), (8, 2, 4), (8, 4, 8), (8, 8, None), (6, 1, 2), (6, 2, 6), (7, 1, 7), (1, 1, None)],
)
def test_the_batch_is_at_least_halved_and_stays_whole(batch_size, divisor, following):
    assert next_divisor(batch_size, divisor) == following


def test_a_divisor_from_before_the_batch_was_changed_is_made_to_fit():
    assert usable_divisor(6, 4) == 3
    assert usable_divisor(2, 8) == 2
    assert usable_divisor(8, 0) == 1


@pytest.mark.parametrize(
    ("code", "number"),
    [(-9, signal.SIGKILL), (137, signal.SIGKILL), (-11, signal.SIGSEGV), (0, None), (255, None)],
)
def test_signals_are_told_from_exit_codes(code, number):
    assert signal_of(code) == number


def test_a_clean_end_keeps_what_the_trainer_recorded():
    for state in (JobState.COMPLETED, JobState.PAUSED, JobState.STOPPED):
        assert judge(Ended(code=0, status=Status(state=state)), TERMS).state is state


def test_a_completed_trainer_that_crashed_is_not_completed():
    verdict = judge(Ended(code=-11, status=Status(state=JobState.COMPLETED)), TERMS)

    assert verdict.state is JobState.FAILED
    assert verdict.error.message == "SIGSEGV ended the trainer."


def test_a_kill_that_we_did_not_send_suggests_memory():
    error = judge(running(137), TERMS).error

    assert isinstance(error, TrainerKilled)
    assert "memory may have run out" in error.message


def test_the_trainers_own_error_counts_more_than_its_exit_code():
    verdict = judge(failed(DiskFull("No space on /data.", "Free some.")), TERMS)

    assert verdict.error.to_dict() == DiskFull("No space on /data.", "Free some.").to_dict()


def test_an_unrecorded_failure_quotes_the_last_line():
    verdict = judge(running(3, printed=("Traceback", "ValueError: odd.")), TERMS)

    assert verdict.error.message == "The trainer ended with exit code 3: ValueError: odd."


def test_a_trainer_killed_for_a_request_rests_as_requested():
    verdict = judge(running(-9, requested=PAUSE, terminated=True), TERMS)

    assert (verdict.state, verdict.reason, verdict.error) == (JobState.PAUSED, "lunch", None)


def test_a_failure_that_a_retry_would_mend_does_not_spoil_a_request():
    assert judge(failed(OutOfMemory("Too big."), requested=PAUSE), TERMS).state is JobState.PAUSED


def test_a_failure_that_nothing_mends_is_told_in_spite_of_a_request():
    assert judge(failed(DiskFull("Full."), requested=PAUSE, terminated=True), TERMS).error
    assert judge(running(1, requested=PAUSE), TERMS).state is JobState.FAILED


def test_restarts_are_counted_up_to_the_limit():
    error = ConnectionLost("The Hub is away.")

    retry = retry_after(error, Status(restarts=1), TERMS)

    assert (retry.kind, retry.changes) == (Kind.RESTART, {"restarts": 2})
    assert retry.line == "restart 2 of 2 after ConnectionLost: The Hub is away."
    assert retry_after(error, Status(restarts=2), TERMS) is None


def test_out_of_memory_takes_a_smaller_batch_and_no_restart():
    retry = retry_after(OutOfMemory("Too big."), Status(restarts=2, batch_divisor=2), TERMS)

    assert (retry.kind, retry.changes) == (Kind.OUT_OF_MEMORY, {"batch_divisor": 4})
    assert "batch size 2 instead of 4" in retry.line


def test_a_loss_that_is_no_number_is_met_once_by_a_lower_rate():
    error = TrainingDiverged("The loss was nan.")

    retry = retry_after(error, Status(restarts=2), TERMS)

    assert (retry.kind, retry.changes) == (Kind.ROLL_BACK, {"learning_rate_factor": 0.5})
    assert "roll back to the last checkpoint, 0.5 times the learning rate" in retry.line
    assert retry_after(error, Status(**retry.changes), TERMS) is None
    assert retry_after(error, Status(), replace(TERMS, module="trainer.command")) is None


def test_an_error_that_says_stop_is_not_retried():
    assert retry_after(DiskFull("Full."), Status(), TERMS) is None


@pytest.mark.parametrize(
    ("record", "named"),
    [
        ({"limits": {"max_restarts": "two"}}, "limits.max_restarts is 'two'"),
        ({"limits": {"stall_timeout_minutes": -1}}, "limits.stall_timeout_minutes is -1"),
        ({"limits": []} | {"config": [1]}, "config is [1]"),
        ({"config": {"per_device_train_batch_size": 0}}, "per_device_train_batch_size is 0"),
        ({"command": "train"}, "command is 'train'"),
    ],
)
def test_a_wrong_entry_of_the_job_is_named(record, named):
    with pytest.raises(ConfigError) as caught:
        read_terms(record)

    assert named in str(caught.value)


@pytest.mark.parametrize(
    ("seen", "order"),
    [
        (Observation(), Order.WAIT),
        (Observation(still=60), Order.DUMP),
        (Observation(still=60, requested=1, grace=5), Order.WAIT),
        (Observation(requested=5, grace=5), Order.TERMINATE),
        (Observation(requested=0, grace=5, initializing=True), Order.TERMINATE),
        (Observation(requested=10, grace=5, terminated=4.9), Order.WAIT),
        (Observation(requested=10, grace=5, terminated=5), Order.KILL),
        (Observation(requests=1), Order.TERMINATE),
        (Observation(requests=1, terminated=6, kill_after=10), Order.WAIT),
        (Observation(requests=2, terminated=0), Order.KILL),
        (Observation(resting=9, still=60), Order.WAIT),
        (Observation(resting=10), Order.KILL),
    ],
)
def test_what_the_watchdog_does_next(seen, order):
    assert next_order(seen, TERMS) is order
