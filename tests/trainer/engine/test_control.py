"""The request to pause or stop: control.json, or a signal."""

import os
import signal
import subprocess
import sys

import pytest

from tests.trainer.supervised import ENVIRONMENT
from trainer.contract.job_directory import Desired, JobDirectory, JobState
from trainer.engine.control import ENDED_BY_SIGNAL, ControlReader


@pytest.mark.parametrize(
    ("desired", "state"),
    [(Desired.RUN, None), (Desired.PAUSE, JobState.PAUSED), (Desired.STOP, JobState.STOPPED)],
)
def test_the_request_in_the_file_is_seen(tmp_path, desired, state):
    directory = JobDirectory(tmp_path)
    control_reader = ControlReader(directory)
    assert control_reader.end_state() is None

    directory.request(desired, reason="because")

    assert control_reader.end_state() is state
    assert control_reader.control().reason == "because"


def test_a_request_can_be_withdrawn(tmp_path):
    directory = JobDirectory(tmp_path)
    control_reader = ControlReader(directory)
    directory.request(Desired.PAUSE)
    assert control_reader.end_state() is JobState.PAUSED

    directory.request(Desired.RUN)

    assert control_reader.end_state() is None


def test_an_unreadable_request_is_to_run(tmp_path):
    directory = JobDirectory(tmp_path)
    directory.control.write_text('{"desired": "explode"}')

    assert ControlReader(directory).end_state() is None


LISTEN = """
import os, signal, sys
from trainer.contract.job_directory import *
from trainer.engine.control import ControlReader, Interrupted
control_reader = ControlReader(JobDirectory(sys.argv[1])); control_reader.listen()
kill = lambda: os.kill(os.getpid(), signal.SIGTERM)
"""


def listening(root: os.PathLike[str], script: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", LISTEN + script, str(root)]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)


def test_a_signal_while_training_is_a_request_to_stop(tmp_path):
    done = listening(
        tmp_path, "control_reader.training = True; kill(); print(control_reader.end_state())"
    )

    assert (done.returncode, done.stdout) == (0, "stopped\n")


def test_a_signal_does_not_turn_a_pause_into_a_stop(tmp_path):
    JobDirectory(tmp_path).request(Desired.PAUSE)

    done = listening(
        tmp_path, "control_reader.training = True; kill(); print(control_reader.end_state())"
    )

    assert done.stdout == "paused\n"


def test_a_signal_before_training_ends_it_at_once(tmp_path):
    script = "try:\n    kill()\nexcept Interrupted:\n    print('interrupted')"

    assert listening(tmp_path, script).stdout == "interrupted\n"


def test_a_second_signal_ends_the_process(tmp_path):
    done = listening(
        tmp_path, "control_reader.training = True; kill(); kill(); print('still here')"
    )

    assert (done.returncode, done.stdout) == (ENDED_BY_SIGNAL, "")
    assert ENDED_BY_SIGNAL == 128 + signal.SIGTERM
