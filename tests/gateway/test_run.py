"""One real job from the command line: trained, listed, read, copied; and one that is interrupted."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.shown import short_id
from tests.gateway.commanding import (
    Trainctl,
    call_here,
    call_trainctl,
    job_file,
    patient_job_file,
    process_of,
)
from tests.waiting import PATIENCE, until_now
from trainer.contract.files import sha256_of
from trainer.contract.manifest import verify

pytestmark = [
    pytest.mark.xdist_group("trainctl-run"),
    pytest.mark.usefixtures("warm_trainers"),
]


@pytest.fixture(scope="module")
def environment(prefect_server: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    home = tmp_path_factory.mktemp("trainctl")
    return {"PREFECT_API_URL": prefect_server, "TRAINING_ORCHESTRATOR_HOME": str(home)}


@pytest.fixture(scope="module")
def completed(
    environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> subprocess.CompletedProcess[str]:
    path = job_file(tmp_path_factory.mktemp("job"))
    return call_trainctl("run", path, "--logs", **environment)


@pytest.fixture
def job(completed: subprocess.CompletedProcess[str]) -> str:
    return completed.stdout.split()[1]


@pytest.fixture
def ask(
    environment: dict[str, str],
    prefect_api: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Trainctl:
    """Return `trainctl` with that home, called in this process."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return lambda *arguments: call_here(capfd, *arguments)


def test_a_run_ends_with_the_artifact_and_its_sha256(
    completed: subprocess.CompletedProcess[str],
):
    assert completed.returncode == 0, completed.stderr
    *_, artifact, sha256 = completed.stdout.splitlines()
    path = Path(artifact.removeprefix("artifact "))
    assert path.is_absolute()
    assert sha256 == f"sha256 {sha256_of(path)}"


def test_a_run_without_a_terminal_tells_its_progress_in_plain_lines(
    completed: subprocess.CompletedProcess[str],
):
    assert "\x1b" not in completed.stdout + completed.stderr
    assert "Traceback" not in completed.stderr
    assert re.search(r"^completed +step 6/6  100%  loss .* eval ", completed.stdout, re.MULTILINE)
    assert re.search(r"^eval_loss [\d.]+ → [\d.]+$", completed.stdout, re.MULTILINE)


def test_a_run_with_logs_prints_every_line_of_the_log_once(
    completed: subprocess.CompletedProcess[str], job: str, ask: Trainctl
):
    log = ask("logs", job).stdout.splitlines()
    printed = completed.stdout.splitlines()

    assert any(line.startswith("step 6/6") for line in log)
    assert [line for line in printed if line in log] == log


def test_the_log_is_with_prefect_too(
    completed: subprocess.CompletedProcess[str],
    job: str,
    ask: Trainctl,
    environment: dict[str, str],
    tmp_path: Path,
):
    elsewhere = {**environment, "TRAINING_ORCHESTRATOR_HOME": str(tmp_path / "elsewhere")}

    shipped = call_trainctl("logs", job, **elsewhere).stdout
    tail = call_trainctl("logs", job, "--tail", 2, "--follow", **elsewhere).stdout

    assert shipped == ask("logs", job).stdout
    assert tail.splitlines() == shipped.splitlines()[-2:]


def test_the_list_shows_the_job_with_step_and_loss(job: str, ask: Trainctl):
    listed = json.loads(ask("list", "--state", "completed", "--json").stdout)
    table = ask("list", "--state", "completed").stdout

    (record,) = (record for record in listed if record["id"] == job)
    assert (record["step"], record["total_steps"], record["name"]) == (6, 6, "by-hand")
    assert re.search(rf"^{short_id(job)}  by-hand +completed +local +6/6 ", table, re.MULTILINE)


def test_the_status_holds_metrics_and_report(job: str, ask: Trainctl):
    shown = ask("status", job[:8]).stdout
    record = json.loads(ask("status", "by-hand", "--json").stdout)

    assert f"id         {job}" in shown
    assert "SHA-256" in shown
    assert record["metrics"]["step"] == 6
    assert record["job"]["training"]["max_length"] == 64


def test_monitor_reads_prefect_alone(job: str, environment: dict[str, str], tmp_path: Path):
    elsewhere = {**environment, "TRAINING_ORCHESTRATOR_HOME": str(tmp_path / "elsewhere")}

    done = call_trainctl("monitor", job, "--follow", **elsewhere)

    assert done.returncode == 0
    assert done.stdout.startswith("completed     step 6/6  100%")


def test_a_downloaded_artifact_is_verified(job: str, ask: Trainctl, tmp_path: Path):
    done = ask("download", job, "--to", tmp_path / "copy")

    assert done.returncode == 0, done.stderr
    assert f"artifact {tmp_path}/copy/model.safetensors" in done.stdout
    assert "model.safetensors" in verify(tmp_path / "copy")["files"]
    assert ask("download", job, "--to", tmp_path / "copy").returncode == 2


@pytest.fixture
def running(environment: dict[str, str], tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    path = patient_job_file(tmp_path)
    with (tmp_path / "run.out").open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "gateway", "run", str(path)],
            env={**os.environ, **environment},
            stdout=out,
            stderr=out,
            text=True,
        )
    try:
        until_now(lambda: "running " in (tmp_path / "run.out").read_text())
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_job_is_paused_resumed_detached_and_cancelled(
    running: subprocess.Popen[str], ask: Trainctl, tmp_path: Path
):
    job = (tmp_path / "run.out").read_text().split()[1]

    paused = ask("pause", job)
    assert (paused.returncode, running.wait(PATIENCE)) == (0, 3), paused.stderr
    assert re.match(r"paused; saved at step \d+ of 20000", paused.stdout)
    took = json.loads(ask("status", job, "--json").stdout)["seconds"]
    time.sleep(1.1)
    assert json.loads(ask("status", job, "--json").stdout)["seconds"] == took > 0  # a pause is free

    assert ask("resume", job, "--detach").returncode == 0
    until_now(lambda: json.loads(ask("status", job, "--json").stdout)["state"] == "running")
    assert ask("resume", job).returncode == 2

    stopped = ask("cancel", job)
    assert stopped.returncode == 0, stopped.stderr
    assert re.match(r"stopped: cancelled; saved at step \d+ of 20000", stopped.stdout)
    assert ask("monitor", job, "--follow").returncode == 4


@pytest.mark.thorough
def test_an_interrupt_without_a_terminal_stops_with_a_checkpoint(
    running: subprocess.Popen[str], tmp_path: Path
):
    running.send_signal(signal.SIGINT)

    assert running.wait(PATIENCE) == 4
    assert re.search(r"stopped: cancelled; saved at step \d+", (tmp_path / "run.out").read_text())


@pytest.mark.thorough
def test_a_training_whose_flow_was_killed_is_stopped_all_the_same(
    running: subprocess.Popen[str], ask: Trainctl, tmp_path: Path
):
    job = (tmp_path / "run.out").read_text().split()[1]
    process_of(job).kill()

    stopped = ask("cancel", job)

    assert stopped.returncode == 0, stopped.stderr
    assert re.match(r"stopped: cancelled; saved at step [1-9]\d* of 20000", stopped.stdout)


def test_whoever_looks_on_imports_nothing_of_prefect(tmp_path: Path):
    probe = (
        "import sys, pathlib, gateway.checks, gateway.cli.running, gateway.prefect.attendant\n"
        f"gateway.checks.checked_job(pathlib.Path({str(job_file(tmp_path))!r}))\n"
        "assert 'prefect' not in sys.modules"
    )

    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
