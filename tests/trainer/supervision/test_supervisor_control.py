"""Requests, signals, deadlines and the command line of the supervisor. Every process is real."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.processes import is_running
from tests.trainer.supervised import ENVIRONMENT, Supervised, command
from tests.waiting import PATIENCE, until_now
from trainer.contract.job_directory import Desired, JobState

OBEDIENT = """
signal.signal(signal.SIGTERM, lambda *_: job.request(Desired.STOP, reason='a signal'))
state('running')
wait_for(lambda: wanted() != 'run')
state({'pause': 'paused', 'stop': 'stopped'}[wanted()])
"""
SAVING = """
signal.signal(signal.SIGTERM, lambda *_: (state('stopped'), sys.exit(0)))
state('running')
time.sleep(600)
"""
DEAF = """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
state('running')
time.sleep(600)
"""


@pytest.mark.parametrize(
    ("verb", "state", "code"), [("--pause", "paused", 3), ("--stop", "stopped", 4)]
)
def test_the_trainer_obeys_a_request(tmp_path, verb, state, code):
    job = Supervised(tmp_path, OBEDIENT, stop_grace_seconds=600)
    supervisor = job.start()
    job.until(JobState.RUNNING)

    assert job.run(verb).returncode == 0

    assert supervisor.wait(PATIENCE) == code
    assert (job.status.state.value, job.status.exit_code) == (state, 0)
    assert job.status.reason == f"{verb[2:]} was asked for by command"


def test_a_request_from_before_the_start_is_obeyed_until_it_is_withdrawn(tmp_path):
    job = Supervised(tmp_path, "state('completed')")
    job.run("--pause")

    done = job.run()

    assert done.returncode == 3
    assert (job.status.state, job.status.attempt) == (JobState.PAUSED, 0)
    assert "paused: pause was asked for by command" in done.stderr
    assert job.run("--resume").returncode == job.run().returncode == 0


def test_a_trainer_that_ignores_a_stop_is_ended_after_its_grace(tmp_path):
    job = Supervised(tmp_path, "state('running'); time.sleep(600)")
    supervisor = job.start()
    job.until(JobState.RUNNING)
    asked = time.monotonic()

    job.job.request(Desired.STOP, grace_seconds=1, reason="enough")

    assert supervisor.wait(PATIENCE) == 4
    assert time.monotonic() - asked >= 1
    assert (job.status.state, job.status.reason) == (JobState.STOPPED, "enough")
    assert not job.status.interrupted
    assert (job.status.exit_code, job.status.error) == (-signal.SIGTERM, None)


def test_a_trainer_that_ignores_even_sigterm_is_killed(tmp_path):
    job = Supervised(tmp_path, DEAF)
    supervisor = job.start()
    job.until(JobState.RUNNING)

    job.job.request(Desired.PAUSE, grace_seconds=0)

    assert supervisor.wait(PATIENCE) == 3
    assert (job.status.state, job.status.exit_code) == (JobState.PAUSED, -signal.SIGKILL)


def test_a_trainer_with_nothing_to_save_is_ended_at_once(tmp_path):
    job = Supervised(tmp_path, "print('loading'); time.sleep(600)")
    supervisor = job.start()
    until_now(lambda: job.job.log.exists() and "loading" in job.log)

    job.job.request(Desired.STOP, grace_seconds=600)

    assert supervisor.wait(PATIENCE) == 4
    assert job.status.exit_code == -signal.SIGTERM


def test_a_request_withdrawn_before_the_trainer_ended_starts_it_again(tmp_path):
    script = """
if attempt == 1:
    state('running'); wait_for(lambda: wanted() == 'pause')
    state('paused'); wait_for(lambda: wanted() == 'run')
else:
    state('completed')
"""
    job = Supervised(tmp_path, script)
    supervisor = job.start()
    job.until(JobState.RUNNING)
    job.run("--pause")
    job.until(JobState.PAUSED)

    job.run("--resume")

    assert supervisor.wait(PATIENCE) == 0
    assert (job.status.attempt, job.status.restarts) == (2, 0)


def test_a_lease_that_nobody_renews_stops_the_job(tmp_path):
    job = Supervised(tmp_path, OBEDIENT)
    job.job.lease.write_text("0.5\n")

    assert job.run().returncode == 4
    assert job.status.reason == "lease expired: nobody renewed it for 0.5 seconds"
    assert job.status.interrupted
    assert job.job.read_control().desired is Desired.STOP


def test_a_lease_that_is_renewed_does_not_expire(tmp_path):
    job = Supervised(tmp_path, OBEDIENT)
    job.job.lease.write_text("4")  # a busy computer may keep us from renewing it for a while
    supervisor = job.start()
    job.until(JobState.RUNNING)

    for _ in range(45):
        job.job.lease.touch()
        with pytest.raises(subprocess.TimeoutExpired):
            supervisor.wait(0.1)
    job.job.lease.unlink()  # released: nobody is waited for any more

    job.run("--stop")
    assert supervisor.wait(PATIENCE) == 4
    assert job.status.reason == "stop was asked for by command"


def test_the_longest_runtime_stops_the_job(tmp_path):
    job = Supervised(tmp_path, OBEDIENT, max_runtime_minutes=0.005)

    assert job.run().returncode == 4
    assert job.status.reason == "max_runtime_minutes reached"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_the_trainer_save_and_stop(tmp_path, number):
    job = Supervised(tmp_path, SAVING)
    supervisor = job.start()
    job.until(JobState.RUNNING)

    supervisor.send_signal(number)

    assert supervisor.wait(PATIENCE) == 4
    assert (job.status.state, job.status.exit_code) == (JobState.STOPPED, 0)
    # All processes get SIGTERM as their computer goes down: whoever looks after the job starts it again.
    assert job.status.interrupted is (number == signal.SIGTERM)


def test_a_second_signal_kills_the_trainer(tmp_path):
    job = Supervised(tmp_path, DEAF)
    supervisor = job.start()
    job.until(JobState.RUNNING)

    supervisor.terminate()
    with pytest.raises(subprocess.TimeoutExpired):
        supervisor.wait(0.5)
    supervisor.terminate()

    assert supervisor.wait(PATIENCE) == 4
    assert (job.status.reason, job.status.exit_code) == ("SIGTERM", -signal.SIGKILL)
    assert not is_running(job.status.trainer_pid)


def test_a_hangup_disturbs_neither(tmp_path):
    script = "state('running'); wait_for((job.root / 'go').exists); state('completed')"
    job = Supervised(tmp_path, script)
    supervisor = job.start()
    job.until(JobState.RUNNING)

    supervisor.send_signal(signal.SIGHUP)
    os.kill(job.status.trainer_pid, signal.SIGHUP)
    (tmp_path / "go").touch()

    assert supervisor.wait(PATIENCE) == 0


def test_a_detached_supervisor_outlives_whoever_started_it(tmp_path):
    job = Supervised(tmp_path, OBEDIENT)
    starter = subprocess.Popen(
        [*command(tmp_path, "--detach")],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    answer = json.loads(starter.communicate(timeout=PATIENCE)[0])
    assert job.status.state in {JobState.INITIALIZING, JobState.RUNNING}  # on record by now
    job.until(JobState.RUNNING)

    with pytest.raises(ProcessLookupError):
        os.killpg(starter.pid, signal.SIGKILL)  # nothing of the starter's group is left

    assert answer == {"pid": job.status.pid, "already_running": False}
    assert os.getsid(answer["pid"]) not in {starter.pid, os.getsid(0)}
    assert json.loads(job.run("--detach").stdout) == {**answer, "already_running": True}
    os.kill(answer["pid"], signal.SIGTERM)
    until_now(lambda: not job.job.is_alive())
    assert job.status.state is JobState.STOPPED


def test_a_detached_start_of_a_completed_job_changes_nothing(tmp_path):
    job = Supervised(tmp_path, "state('completed')")
    job.run()
    before = job.status

    done = job.run("--detach")

    assert json.loads(done.stdout)["already_running"] is False
    until_now(lambda: not job.job.is_alive())
    assert job.status == before


def test_the_status_says_who_is_alive(tmp_path):
    job = Supervised(tmp_path, OBEDIENT)
    supervisor = job.start()
    job.until(JobState.RUNNING)
    running = json.loads(job.run("--status").stdout)
    job.run("--stop")
    supervisor.wait(PATIENCE)
    stopped = json.loads(job.run("--status").stdout)

    assert (running["state"], running["alive"]) == ("running", True)
    assert (stopped["state"], stopped["alive"]) == ("stopped", False)
    assert running["pid"] == supervisor.pid


def test_without_a_job_nothing_is_made(tmp_path):
    job = Supervised(tmp_path / "job", "")
    job.job.job.unlink()
    job.job.root.rmdir()

    done = job.run()

    assert done.returncode == 2
    assert "job.json is missing" in done.stderr
    assert not job.job.root.exists()


def test_a_wrong_limit_is_named(tmp_path):
    done = Supervised(tmp_path, "", stall_timeout_minutes="soon").run()

    assert done.returncode == 2
    assert "limits.stall_timeout_minutes is 'soon'" in done.stderr


def test_bad_usage_is_told_apart(tmp_path):
    assert Supervised(tmp_path, "").run("--pause", "--stop").returncode == 2


def test_the_supervisor_needs_the_standard_library_only(tmp_path):
    script = "import sys, trainer.__main__; print(*{name.split('.')[0] for name in sys.modules})"

    loaded = subprocess.run(
        [
            sys.executable,
            "-I",
            "-S",
            "-c",
            f"sys_path = {sys.path!r}; import sys; "
            f"sys.path.insert(0, {ENVIRONMENT['PYTHONPATH']!r}); {script}",
        ],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    ).stdout.split()

    assert set(loaded) <= set(sys.stdlib_module_names) | {"trainer", "__main__"}
