"""How trainers end, and what the supervisor makes of it. Every process here is real."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from tests.processes import is_running
from tests.trainer.supervised import ENVIRONMENT, PRELUDE, Supervised
from tests.waiting import PATIENCE, until_now
from trainer.contract.job_directory import JobDirectory, JobState
from trainer.supervision.supervisor import MOMENT, ownership

COMPLETE = "state('completed')\n"
STALL = 2 / 60  # minutes: a trainer starts in less on a computer that has much else to do


def test_a_completed_job_is_recorded_and_shown(tmp_path):
    job = Supervised(tmp_path, "print('step 1'); state('running', step=1);" + COMPLETE)

    done = job.run()

    assert (done.returncode, done.stdout, done.stderr) == (0, "step 1\n", "")
    status = job.status
    assert (status.state, status.step, status.attempt) == (JobState.COMPLETED, 1, 1)
    assert (status.exit_code, status.error, status.restarts) == (0, None, 0)
    assert status.started_at < status.finished_at
    assert status.peak_rss_bytes > 5e6


def test_a_completed_job_is_not_trained_again(tmp_path):
    job = Supervised(tmp_path, COMPLETE)
    job.run()
    before = job.status

    assert job.run().returncode == 0
    assert job.status == before


def test_the_trainer_starts_in_its_own_group_with_an_empty_input_and_the_lock(tmp_path):
    script = """
assert os.getpgrp() == os.getpid() == job.read_status().trainer_pid
assert sys.stdin.read() == ''
assert os.environ['PYTHONUNBUFFERED'] == os.environ['PYTHONFAULTHANDLER'] == '1'
held = {os.readlink(f'/proc/self/fd/{d}') for d in os.listdir('/proc/self/fd') if int(d) > 2
        and os.path.exists(f'/proc/self/fd/{d}')}
assert str(job.root / '.lock') in held, held
"""
    job = Supervised(tmp_path, script + COMPLETE)

    assert job.run().returncode == 0, job.log


def test_a_killed_trainer_is_started_again(tmp_path):
    script = "if attempt == 1: os.kill(os.getpid(), signal.SIGKILL)\n" + COMPLETE
    job = Supervised(tmp_path, script)

    assert job.run().returncode == 0
    assert (job.status.attempt, job.status.restarts, job.status.error) == (2, 1, None)
    assert "\nrestart 1 of 2 after TrainerKilled: SIGKILL ended the trainer" in job.log
    (event,) = job.events
    assert event.kind == "restart"
    assert f"\n{event.message}\n" in job.log
    assert (event.facts["error"]["class"], event.facts["restarts"]) == ("TrainerKilled", 1)
    assert event.facts["error"]["message"] == event.cause


def test_restarts_come_to_an_end(tmp_path):
    script = "print('a torn line', end=''); os.kill(os.getpid(), signal.SIGKILL)"
    job = Supervised(tmp_path, script, max_restarts=1)

    done = job.run()

    assert done.returncode == 1
    assert "memory may have run out" in done.stderr
    assert (job.status.attempt, job.status.error["class"]) == (2, "TrainerKilled")
    assert job.status.exit_code == -signal.SIGKILL
    assert job.log.count("\nerror TrainerKilled: ") == 2


def test_a_job_started_anew_may_restart_anew(tmp_path):
    script = "if attempt < 4: os.kill(os.getpid(), signal.SIGKILL)\n" + COMPLETE
    job = Supervised(tmp_path, script, max_restarts=1)
    assert job.run().returncode == 1
    started_at = job.status.started_at

    assert job.run().returncode == 0
    assert (job.status.attempt, job.status.started_at) == (4, started_at)


def test_a_hung_trainer_writes_its_stacks_and_is_started_again(tmp_path):
    script = """
import faulthandler
faulthandler.register(signal.SIGUSR1, all_threads=True)
def the_line_that_hangs():
    state('running')
    time.sleep(600)
if attempt == 1: the_line_that_hangs()
"""
    job = Supervised(tmp_path, script + COMPLETE, stall_timeout_minutes=STALL)

    assert job.run().returncode == 0
    assert "in the_line_that_hangs" in job.log
    assert "restart 1 of 2 after TrainingStalled: " in job.log


def test_signs_of_life_hold_the_watchdog_off(tmp_path):
    script = """
for step in range(60):
    with job.metrics.open('a') as stream: stream.write('{}')
    time.sleep(0.05)
"""
    job = Supervised(tmp_path, script + COMPLETE, stall_timeout_minutes=STALL)

    assert job.run().returncode == 0
    assert job.status.attempt == 1


def test_what_is_printed_while_the_model_does_not_train_on_is_no_sign_of_life(tmp_path):
    script = """
if attempt == 1:
    job.pulse.touch()
    while True:
        print('another thread is well', flush=True)
        time.sleep(0.05)
for step in range(60):
    print('loading', flush=True)
    time.sleep(0.05)
"""
    job = Supervised(tmp_path, script + COMPLETE, stall_timeout_minutes=STALL)

    assert job.run().returncode == 0
    assert (job.status.attempt, job.status.restarts) == (2, 1)
    assert "where it hangs" in job.log


def test_the_lower_learning_rate_is_kept_in_the_status(tmp_path):
    script = """
print('factor', job.read_status().learning_rate_factor)
state('failed', error=TrainingDiverged('At step 5 the loss was nan.').to_dict()); sys.exit(1)
"""
    job = Supervised(tmp_path, script)

    assert job.run().returncode != 0
    factors = [line for line in job.log.splitlines() if line.startswith("factor")]
    assert factors == ["factor 1.0", "factor 0.5"]
    assert (job.status.learning_rate_factor, job.status.restarts) == (0.5, 0)


def test_out_of_memory_halves_the_batch_until_it_fits(tmp_path):
    script = """
print('divisor', job.read_status().batch_divisor)
if attempt < 4:
    state('failed', error=OutOfMemory('The GPU is full.').to_dict()); sys.exit(1)
"""
    job = Supervised(tmp_path, script + COMPLETE, max_restarts=0)

    assert job.run().returncode == 0
    divisors = [line for line in job.log.splitlines() if line.startswith("divisor")]
    assert divisors == ["divisor 1", "divisor 2", "divisor 4", "divisor 8"]
    assert (job.status.batch_divisor, job.status.restarts) == (8, 0)


def test_out_of_memory_at_batch_one_fails(tmp_path):
    script = "state('failed', error=OutOfMemory('The GPU is full.').to_dict()); sys.exit(1)"
    job = Supervised(tmp_path, script, batch_size=2)

    assert job.run().returncode == 1
    assert (job.status.error["class"], job.status.attempt) == ("OutOfMemory", 2)


def test_an_error_that_the_trainer_told_is_not_told_twice(tmp_path):
    script = """
error = DataError('Row 3 is empty.')
print(f'error DataError: {error}'); print('more' * 4000)
state('failed', error=error.to_dict()); sys.exit(1)
"""
    job = Supervised(tmp_path, script)

    assert job.run().returncode == 1
    assert job.log.count("Row 3 is empty.") == 1


@pytest.mark.parametrize(
    ("script", "sentence"),
    [
        ("state('running')", "exit code 0 but never said that it had completed"),
        ("raise KeyError('colour')", "ended with exit code 1: KeyError: 'colour'."),
        ("sys.exit(7)", "ended with exit code 7: it printed nothing."),
    ],
)
def test_an_end_without_a_record_is_a_failure(tmp_path, script, sentence):
    job = Supervised(tmp_path, script)

    assert job.run().returncode == 1
    assert job.status.error["class"] == "TrainingFailed"
    assert sentence in job.status.error["message"]
    assert job.status.attempt == 1


def test_a_command_that_does_not_exist_is_named(tmp_path):
    job = Supervised(tmp_path, "")
    job.write_job(command=["no-such-trainer"])

    assert job.run().returncode == 1
    assert "cannot start 'no-such-trainer': No such file" in job.status.error["message"]


def test_a_trainer_that_completed_but_does_not_exit_is_ended(tmp_path):
    job = Supervised(tmp_path, COMPLETE + "time.sleep(600)", stop_grace_seconds=0.3)

    assert job.run().returncode == 0
    assert (job.status.state, job.status.exit_code) == (JobState.COMPLETED, -signal.SIGKILL)


def test_nothing_that_the_trainer_started_is_left(tmp_path):
    script = """
child = subprocess.Popen(['sleep', '600'])
(job.root / 'child').write_text(str(child.pid))
"""
    job = Supervised(tmp_path, script + COMPLETE)

    assert job.run().returncode == 0
    until_now(lambda: not is_running(int((tmp_path / "child").read_text())))


def test_training_survives_its_supervisor(tmp_path):
    script = "state('running'); wait_for((job.root / 'go').exists); print('last');" + COMPLETE
    job = Supervised(tmp_path, script)
    supervisor = job.start()
    job.until(JobState.RUNNING)
    supervisor.kill()
    supervisor.wait()
    assert job.run().returncode == 5  # the trainer still owns the directory

    (tmp_path / "go").touch()

    until_now(lambda: not job.job.is_alive())
    assert job.run().returncode == 0
    assert (job.status.attempt, job.log) == (1, "last\n")


def test_a_crash_of_everything_is_taken_up_again(tmp_path):
    script = "if attempt == 1: state('running', step=7); time.sleep(600)\n" + COMPLETE
    job = Supervised(tmp_path, script)
    supervisor = job.start()
    job.until(JobState.RUNNING)
    supervisor.kill()
    supervisor.wait()
    os.kill(job.status.trainer_pid, signal.SIGKILL)

    until_now(lambda: not job.job.is_alive())
    assert job.run().returncode == 0
    assert (job.status.attempt, job.status.step) == (2, 7)


def test_a_directory_has_one_owner(tmp_path):
    job = Supervised(
        tmp_path, "state('running'); wait_for(lambda: wanted() == 'stop');state('stopped')"
    )
    supervisor = job.start()
    job.until(JobState.RUNNING)

    second = job.run()

    assert second.returncode == 5
    assert f"is in use by another process ({supervisor.pid})" in second.stderr
    assert job.run("--stop").returncode == 0
    assert supervisor.wait() == 4


def test_a_look_at_the_directory_does_not_keep_its_owner_out(tmp_path):
    look = "with job.owned(): print('held', flush=True); time.sleep(600)"
    looker = [sys.executable, "-c", PRELUDE + look, str(tmp_path)]
    with subprocess.Popen(looker, env=ENVIRONMENT, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"held\n"
        threading.Timer(MOMENT / 3, process.kill).start()

        with ownership(JobDirectory(tmp_path)) as lock:
            assert lock is not None


def test_a_trainer_whose_starter_dies_first_never_starts(tmp_path):
    script = """
import os, sys
from pathlib import Path
from trainer.supervision.process import TrainerProcess
root = Path(sys.argv[1])
command = ['touch', str(root / 'started')]
trainer = TrainerProcess(command, log=root / 'log', locks=[0])
print(trainer.pid, flush=True)
os._exit(0)
"""
    starter = [sys.executable, "-c", script, str(tmp_path)]
    done = subprocess.run(starter, env=ENVIRONMENT, capture_output=True, text=True, check=True)

    until_now(lambda: not is_running(int(done.stdout)))
    assert not (tmp_path / "started").exists()


def test_a_reader_that_takes_nothing_holds_nobody_up(tmp_path):
    job = Supervised(tmp_path, "print('x' * 1_000_000);" + COMPLETE)

    supervisor = job.start(stdout=subprocess.PIPE)

    assert supervisor.wait(PATIENCE) == 0
    supervisor.stdout.close()


def test_a_reader_that_goes_away_holds_nobody_up(tmp_path):
    script = "print('first'); wait_for((job.root / 'go').exists); print('second');" + COMPLETE
    job = Supervised(tmp_path, script)
    supervisor = job.start(stdout=subprocess.PIPE)
    assert supervisor.stdout.readline() == b"first\n"
    supervisor.stdout.close()

    (tmp_path / "go").touch()

    assert supervisor.wait(PATIENCE) == 0
    assert job.log == "first\nsecond\n"
