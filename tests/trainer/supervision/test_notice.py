"""The provider's notice reaches trainer, log and events. Every process here is real."""

import json
import os
import signal

import pytest

from tests.processes import is_running
from tests.trainer.supervised import Supervised
from tests.waiting import PATIENCE, until_now
from trainer.contract.job_directory import JobState
from trainer.supervision import notice as notice_module
from trainer.supervision.notice import MESSAGE, Notice

UNTIL_NOTICED = "state('running', step=3); wait_for(job.notice.exists); state('completed')\n"


def noticed(tmp_path, script, line):
    job = Supervised(tmp_path / "job", script)
    job.write_job(command=job_command(job), notice=line)
    return job


def job_command(job):
    return json.loads(job.job.job.read_text())["command"]


def test_a_notice_is_passed_on_while_training_goes_on(tmp_path):
    taken = tmp_path / "taken"
    job = noticed(tmp_path, UNTIL_NOTICED, f"until [ -e {taken} ]; do sleep 0.05; done")
    supervisor = job.start()
    job.until(JobState.RUNNING)
    assert not job.job.notice.exists()

    taken.touch()

    assert supervisor.wait(PATIENCE) == 0
    assert f"\n{MESSAGE}\n" in f"\n{job.log}"
    [event] = job.events
    assert (event.kind, event.step, event.message) == ("notice", 3, MESSAGE)


def test_a_notice_of_an_earlier_supervisor_is_not_taken_for_one(tmp_path):
    job = noticed(tmp_path, "assert not job.notice.exists(); state('completed')\n", "")
    job.job.notice.write_text("{}")

    assert job.run().returncode == 0, job.log


@pytest.mark.parametrize("number", [None, signal.SIGKILL], ids=["ended", "killed"])
def test_nothing_goes_on_listening_when_the_supervisor_is_gone(tmp_path, number):
    line = f"echo $$ >{tmp_path}/pid; while :; do sleep 0.1; done"
    script = "state('running'); wait_for((job.root / 'go').exists); state('completed')\n"
    job = noticed(tmp_path, script, line)
    supervisor = job.start()
    job.until(JobState.RUNNING)
    pid = int(until_now(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text()))
    assert is_running(pid)

    if number:
        os.kill(supervisor.pid, number)
        os.kill(job.status.trainer_pid, number)
    else:
        (job.job.root / "go").touch()

    supervisor.wait(PATIENCE)
    until_now(lambda: not is_running(pid))


def test_a_line_that_fails_is_started_again_and_ends_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(notice_module, "AGAIN_SECONDS", 0.0)
    job = Supervised(tmp_path / "job", "")
    tried = tmp_path / "tried"

    with Notice(job.job, f"[ -e {tried} ] || {{ touch {tried}; exit 7; }}") as notice:
        until_now(lambda: notice.look() or job.job.notice.exists())

    assert [event.kind for event in job.events] == ["notice"]
