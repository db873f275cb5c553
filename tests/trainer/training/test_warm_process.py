"""A job that a process with torch in it has forked is the job that a new process would be."""

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.trainer.jobs import Job
from tests.trainer.supervised import ENVIRONMENT, command
from tests.waiting import PATIENCE, until_now
from trainer.contract.job_directory import JobState
from trainer.supervision import warm

pytestmark = [pytest.mark.xdist_group("torch"), pytest.mark.slow]
Start = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Start jobs by a warm process of these tests alone, which has ended when they have."""
    mine = {"OF_THESE_TESTS": str(tmp_path_factory.mktemp("warm")), warm.SECONDS: "600"}
    before = set(warm_processes())

    def start(
        job: Job, cwd: Path | None = None, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command(job.directory.root, "--detach"),
            env=ENVIRONMENT | mine | environment,
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    yield start
    for process in set(warm_processes()) - before:
        socket = Path(process.cmdline()[-3])
        assert socket.exists()
        socket.unlink()  # by which it ends
        process.wait(PATIENCE)


def warm_processes() -> list[psutil.Process]:
    """Return those that wait for jobs; a job's own processes are copies, with other names."""
    return [one for one in psutil.process_iter() if comm(one.pid) == warm.NAME]


def comm(pid: int) -> str:
    with suppress(OSError):
        return Path("/proc", str(pid), "comm").read_text().strip()
    return ""


def ended(job: Job) -> JobState:
    until_now(lambda: job.status.finished_at is not None and not job.directory.is_alive())
    return job.status.state


@pytest.fixture(scope="module")
def trained(start: Start, make_job, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A job of the warm process, whose trainer was killed in its fifth step."""
    job = make_job(tmp_path_factory.mktemp("warm") / "job", max_steps=60, save_steps=4)
    done = start(job)
    assert json.loads(done.stdout) == {"pid": job.status.pid, "already_running": False}, done
    until_now(lambda: job.status.state is JobState.RUNNING and job.status.step >= 5)
    os.kill(job.status.trainer_pid, signal.SIGKILL)
    ended(job)
    return job


@pytest.mark.thorough
def test_it_learns_what_it_would_in_a_process_of_its_own(trained: Job, make_job, tmp_path: Path):
    alone = make_job(tmp_path / "alone", max_steps=60, save_steps=4)
    alone.train()

    assert (trained.status.state, trained.status.restarts) == (JobState.COMPLETED, 1)
    assert trained.weights == alone.weights
    assert trained.curve == alone.curve


@pytest.mark.thorough
def test_what_it_prints_is_in_its_log_and_nothing_is_left(trained: Job):
    log = trained.directory.log.read_text()

    assert log.endswith("\ncompleted\n")
    assert "Warning" not in log
    assert "Traceback" not in log
    with pytest.raises(ProcessLookupError):
        os.kill(trained.status.trainer_pid, 0)


@pytest.mark.thorough
def test_a_job_has_the_environment_and_folder_of_who_starts_it(
    start: Start, make_job, tmp_path: Path
):
    token = "hf_ofThisJobAlone123"  # noqa: S105 - no token
    row = {"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": token}]}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    job = make_job(tmp_path / "job", max_steps=1, data={"path": "rows.jsonl"})

    done = start(job, tmp_path, HF_TOKEN=token)

    assert (done.returncode, ended(job)) == (0, JobState.COMPLETED), job.directory.log.read_text()
    log = job.directory.log.read_text()
    assert "the first row" in log
    assert token not in log  # it knows its secrets
    assert all(token not in process.environ().values() for process in warm_processes())


@pytest.mark.thorough
def test_a_job_of_code_that_may_import_anything_has_a_process_of_its_own(
    start: Start, make_job, tmp_path: Path
):
    code = tmp_path / "own.py"
    code.write_text(
        "import sys\n"
        "from transformers import TrainerCallback\n"
        "class Says(TrainerCallback):\n"
        "    def on_train_begin(self, *_, **__):\n"
        "        print('hidden:', sys.modules.get('boto3', 'no') is None)\n"
    )
    job = make_job(tmp_path / "job", max_steps=1, callbacks=[f"{code}:Says"])

    start(job)

    assert ended(job) is JobState.COMPLETED, job.directory.log.read_text()
    assert "hidden: False" in job.directory.log.read_text()


@pytest.mark.thorough
def test_a_warm_process_that_is_killed_takes_no_job_along(
    start: Start, trained: Job, make_job, tmp_path: Path
):
    del trained  # there is a warm process by now
    job = make_job(tmp_path / "job", max_steps=40)
    start(job)
    until_now(lambda: job.status.state is JobState.RUNNING)
    assert comm(job.status.pid) == "supervisor"
    process = warm_process_of(tmp_path)

    process.kill()
    process.wait(PATIENCE)

    assert ended(job) is JobState.COMPLETED
    again = make_job(tmp_path / "again", max_steps=1)
    assert start(again).returncode == 0  # by another one, which took its place
    assert ended(again) is JobState.COMPLETED


@pytest.mark.thorough
@pytest.mark.fault(145, "warm trainer stands still")
def test_a_warm_process_that_stands_still_is_ended_and_the_job_starts_without_it(
    start: Start, trained: Job, make_job, tmp_path: Path
):
    del trained  # there is a warm process by now
    process = warm_process_of(tmp_path)
    path = Path(process.cmdline()[-3])
    job = make_job(tmp_path / "job", max_steps=1)
    process.suspend()
    patience = "import sys\nfrom trainer.supervision import warm\nwarm.ANSWER_SECONDS = 0.5\n"
    words = ["-c", patience + "from trainer.__main__ import main\nsys.exit(main(sys.argv[1:]))"]
    first = command(job.directory.root, "--detach")
    done = subprocess.run(
        [first[0], "-P", *words, *first[first.index("trainer") + 1 :]],
        env=process_environment(process) | {warm.SECONDS: "600"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert json.loads(done.stdout)["already_running"] is False, done.stderr
    assert ended(job) is JobState.COMPLETED
    assert not path.exists()  # so that the next job does not wait for it
    process.wait(PATIENCE)
    assert job.status.attempt == 1


def warm_process_of(tmp_path: Path) -> psutil.Process:
    """Return that of these tests; those of another test run may be there too."""
    run = str(tmp_path.parent)
    every = [(one, one.environ().get("OF_THESE_TESTS", "")) for one in warm_processes()]
    [process] = [one for one, whose in every if whose.startswith(run)]
    return process


def process_environment(process: psutil.Process) -> dict[str, str]:
    """Return the environment by which jobs are served by this warm process."""
    return ENVIRONMENT | {"OF_THESE_TESTS": process.environ()["OF_THESE_TESTS"]}
