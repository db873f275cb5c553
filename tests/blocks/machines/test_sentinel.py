import asyncio
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from blocks.keys import MachineKeys
from blocks.machines import sentinel
from blocks.machines.sentinel import renew
from blocks.machines.shell import script
from blocks.machines.ssh import SshMachine
from tests.clouds.machines import Profile, SshdMachine
from tests.processes import command_lines
from tests.waiting import until
from trainer.contract.errors import OrchestratorError
from trainer.contract.job_directory import Desired, JobDirectory, JobState

ROOT = Path(__file__).parents[3]
LONG = 600.0
arm = partial(sentinel.arm, grace_seconds=120.0)
SHUT_DOWN = 'date >>"$HOME/shutdown-ran"'
CANARY = "canary-5c1f"

# Holds a job directory as a supervisor does, and ends when it is asked to unless it is deaf.
WORK = """
import sys, time
from trainer.contract.job_directory import Desired, JobDirectory, JobState, utc_now
job = JobDirectory(sys.argv[1])
with job.owned():
    job.update_status(state=JobState.RUNNING)
    while sys.argv[2] == "deaf" or job.read_control().desired is Desired.RUN:
        time.sleep(0.05)
    time.sleep(0.5)  # saves
    job.update_status(state=JobState.STOPPED, finished_at=utc_now())
"""


@pytest.fixture
def hired(tmp_path):
    keys = MachineKeys("hired")
    profile = Profile(environment={"CLOUD_KEY": CANARY})
    with SshdMachine(tmp_path / "m", public_keys=[keys.public_key()], profile=profile) as machine:
        yield machine


@pytest.fixture
async def machine(hired):
    async with connection(hired) as machine:
        yield machine


def connection(hired):
    keys = MachineKeys("hired")
    return SshMachine(
        hired.address,
        port=hired.port,
        user=hired.user,
        private_key=keys.private_key,
        host_key=keys.host_key,
    )


def base_of(hired):
    return str(folder_of(hired))


def folder_of(hired, *names):
    return hired.home.joinpath(".training-orchestrator", *names)


def mode_of(path):
    return path.stat().st_mode & 0o777


def sentinel_pid(hired):
    return int(folder_of(hired, "sentinel.pid").read_text().split()[0])


def was_shut_down(hired):
    return (hired.home / "shutdown-ran").exists()


async def work(machine, hired, manner):
    """Start a process in a job directory; return the directory when it is at work."""
    job = JobDirectory(f"{base_of(hired)}/jobs/to-1")
    job.root.mkdir(parents=True)
    command = [sys.executable, "-c", WORK, str(job.root), manner]
    await machine.start(command, env={"PYTHONPATH": str(ROOT)})
    await until(lambda: job.read_status().state is JobState.RUNNING)
    return job


async def test_a_machine_ends_itself_when_and_only_when_nobody_renews_its_lease(machine, hired):
    await arm(machine, base_of(hired), 1, SHUT_DOWN)

    for _ in range(6):
        assert await renew(machine, base_of(hired), None, 1)
        await asyncio.sleep(0.3)
    assert not was_shut_down(hired)

    await until(lambda: was_shut_down(hired))


async def test_a_machine_that_cannot_be_reached_any_more_ends_itself(machine, hired):
    await arm(machine, base_of(hired), 1, f'printf %s "$CLOUD_KEY" >"$HOME/said"; {SHUT_DOWN}')

    hired.stop()

    await until(lambda: was_shut_down(hired))
    assert (hired.home / "said").read_text() == CANARY


async def test_jobs_save_and_stop_before_the_shutdown(machine, hired):
    await arm(
        machine,
        base_of(hired),
        1,
        f'cp "{base_of(hired)}/jobs/to-1/status.json" "$HOME"; {SHUT_DOWN}',
    )
    job = await work(machine, hired, "willing")

    await until(lambda: was_shut_down(hired))

    assert job.read_control().desired is Desired.STOP
    assert job.read_control().grace_seconds == 120.0
    assert job.read_control().reason == "lease expired: nobody renewed it for 1 seconds"
    assert '"state": "stopped"' in (hired.home / "status.json").read_text()


@pytest.mark.thorough
async def test_a_job_that_does_not_stop_delays_the_shutdown_by_the_grace_alone(machine, hired):
    await arm(machine, base_of(hired), 1, SHUT_DOWN, grace_seconds=2)
    job = await work(machine, hired, "deaf")
    await until(lambda: job.read_control().desired is Desired.STOP)
    asked = time.monotonic()

    await until(lambda: was_shut_down(hired))

    assert 1 < time.monotonic() - asked < 5
    assert job.is_alive()


@pytest.mark.thorough
async def test_the_clock_may_jump(machine, hired):
    await arm(machine, base_of(hired), 1, SHUT_DOWN)
    lease = folder_of(hired, "lease")

    for hours in (-1, 1):  # a touch by a clock that is an hour off is a renewal like any other
        await asyncio.sleep(0.7)
        os.utime(lease, (time.time() + hours * 3600,) * 2)
    await asyncio.sleep(0.7)
    assert not was_shut_down(hired)

    await until(lambda: was_shut_down(hired))


@pytest.mark.thorough
async def test_the_shutdown_command_runs_until_it_works(machine, hired, monkeypatch):
    monkeypatch.setattr(sentinel, "AGAIN_SECONDS", 1)
    await arm(machine, base_of(hired), 1, f"{SHUT_DOWN}; false")

    await until(lambda: was_shut_down(hired))
    await until(lambda: len((hired.home / "shutdown-ran").read_text().splitlines()) >= 2)

    assert await renew(machine, base_of(hired), None, LONG)  # and a renewal takes it back
    await asyncio.sleep(1.2)
    said = (hired.home / "shutdown-ran").read_text()
    await asyncio.sleep(1.5)
    assert (hired.home / "shutdown-ran").read_text() == said


async def test_an_owned_machine_stays_and_the_sentinel_goes(machine, hired):
    await arm(machine, base_of(hired), 1, ":")
    job = await work(machine, hired, "willing")

    await until(lambda: hired.processes() == [])

    assert job.read_status().state is JobState.STOPPED
    assert not folder_of(hired, "sentinel.pid").exists()
    assert not await renew(machine, base_of(hired), None, LONG)


@pytest.mark.thorough
async def test_the_longer_lease_of_another_run_on_the_machine_counts(machine, hired):
    other = folder_of(hired, "jobs", "to-2")
    other.mkdir(parents=True)
    (other / "lease").write_text("600\n")
    await arm(machine, base_of(hired), 1, SHUT_DOWN)

    await asyncio.sleep(2.2)

    assert not was_shut_down(hired)


@pytest.mark.thorough
async def test_there_is_one_sentinel_however_often_it_is_armed(machine, hired):
    await arm(machine, base_of(hired), 20, SHUT_DOWN)
    first = sentinel_pid(hired)
    await asyncio.gather(*(arm(machine, base_of(hired), 20, SHUT_DOWN) for _ in range(3)))
    assert sentinel_pid(hired) == first

    await arm(machine, base_of(hired), 20, "exit 1")

    assert sentinel_pid(hired) != first
    await until(lambda: first not in hired.processes())


@pytest.mark.thorough
async def test_a_sentinel_that_was_killed_is_missed_and_armed_again(machine, hired):
    await arm(machine, base_of(hired), LONG, SHUT_DOWN)
    os.killpg(sentinel_pid(hired), signal.SIGKILL)
    await until(lambda: hired.processes() == [])

    assert not await renew(machine, base_of(hired), None, LONG)
    await arm(machine, base_of(hired), LONG, SHUT_DOWN)

    assert await renew(machine, base_of(hired), None, LONG)


async def test_what_the_shutdown_command_says_and_knows_is_the_owners_alone(machine, hired):
    canary = "canary-91ab"
    await arm(machine, base_of(hired), LONG, f"TOKEN={canary}; {SHUT_DOWN}")

    shown = str(command_lines(hired.processes()))
    assert "sentinel.sh" in shown
    assert canary not in shown
    assert mode_of(folder_of(hired, "shutdown_command")) == 0o600
    assert mode_of(folder_of(hired)) == 0o700


async def test_a_renewal_renews_the_jobs_lease_too_and_makes_no_job(machine, hired):
    await arm(machine, base_of(hired), LONG, SHUT_DOWN)
    job = folder_of(hired, "jobs", "to-1")
    await renew(machine, base_of(hired), str(job), 59.5)
    assert not job.exists()
    job.mkdir(parents=True)

    await renew(machine, base_of(hired), str(job), 59.5)
    before = (job / "lease").stat()
    await renew(machine, base_of(hired), str(job), 59.5)

    assert (job / "lease").read_text() == folder_of(hired, "lease").read_text() == "60\n"
    assert (job / "lease").stat().st_mtime_ns > before.st_mtime_ns
    assert (job / "lease").stat().st_ino == before.st_ino  # a touch needs no room on the disk


async def test_a_lease_that_cannot_be_renewed_is_reported(machine, hired):
    with pytest.raises(OrchestratorError, match=r"there is no folder .*\.training-orchestrator"):
        await renew(machine, base_of(hired), None, LONG)


@pytest.mark.parametrize("flock", [True, False])
def test_a_held_directory_is_told_with_and_without_flock(tmp_path, flock):
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ["ls", "grep", "true"] + ["flock"] * flock:
        (programs / name).symlink_to(Path("/usr/bin", name))
    job = JobDirectory(tmp_path / "a job")

    def occupied():
        text = script("occupied.sh") + 'occupied "$1"'
        command = ["/bin/sh", "-c", text, "sh", job.root]
        return subprocess.run(command, env={"PATH": str(programs)}).returncode == 0

    assert not occupied()
    with job.owned():
        assert occupied()
    assert not occupied()
