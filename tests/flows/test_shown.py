"""Which state of a job a state of Prefect's is."""

from types import SimpleNamespace

import pytest

from flows.shown import TRAINS, job_state
from trainer.contract.job_directory import JobState


@pytest.mark.parametrize(
    ("type", "name", "message", "state"),
    [
        ("RUNNING", "Running", None, JobState.INITIALIZING),  # as Prefect's engine begins
        ("RUNNING", "Initializing", None, JobState.INITIALIZING),
        ("RUNNING", "Running", TRAINS, JobState.RUNNING),
        ("RUNNING", "Pausing", None, JobState.RUNNING),
        ("SCHEDULED", "Reviving", None, JobState.RUNNING),
        ("SCHEDULED", "Scheduled", None, JobState.CREATED),
        ("CRASHED", "Crashed", "x", JobState.FAILED),
    ],
)
def test_a_job_runs_from_when_its_training_is_followed(type, name, message, state):
    run = SimpleNamespace(state=SimpleNamespace(type=type, name=name, message=message))

    assert job_state(run) is state
