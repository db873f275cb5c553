"""Whose process died is revived without anybody typing anything, and then nobody stays."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import psutil
import pytest

from blocks.home import instances, runs
from flows import attended
from flows.locks import is_held
from flows.notifying.destinations import Destination
from flows.notifying.outbox import Outbox
from gateway.prefect import attendant
from tests.gateway.commanding import Trainctl, call_trainctl, job_file_of, process_of
from tests.processes import is_running
from tests.receivers import web_receiver
from tests.stand_in import stand_in
from tests.waiting import PATIENCE, until_now

pytestmark = [
    pytest.mark.xdist_group("trainctl-run"),
    pytest.mark.usefixtures("warm_trainers"),
]


@pytest.fixture
def ask(prefect_server: str, home: Path) -> Iterator[Trainctl]:
    environment = {"PREFECT_API_URL": prefect_server, attendant.SECONDS: "1"}
    yield lambda *arguments: call_trainctl(*arguments, **environment)
    attendant.stop()


def state_of(ask: Trainctl, job: str) -> str:
    return json.loads(ask("status", job, "--json").stdout)["state"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.thorough
def test_a_job_whose_process_is_ended_completes_by_itself_before_the_eyes_of_whoever_looks_on(
    ask: Trainctl, prefect_server: str, tmp_path: Path, home: Path, number: int
):
    go, out = tmp_path / "go", tmp_path / "out"
    path = job_file_of(stand_in(tmp_path, "--steps", 40, "--hold", 30, "--go", go), tmp_path)
    with out.open("w") as stream:
        looking = subprocess.Popen(
            [sys.executable, "-m", "gateway", "run", path],
            env={**os.environ, "PREFECT_API_URL": prefect_server, attendant.SECONDS: "1"},
            stdout=stream,
            stderr=stream,
        )
    job = until_now(lambda: out.read_text().split()[1:2])[0]
    until_now(lambda: "running  " in out.read_text())
    mirror = runs() / job / "train.log"
    until_now(lambda: mirror.exists() and b"step 30/40" in mirror.read_bytes())
    first = process_of(job)

    first.send_signal(number)
    until_now(lambda: not is_held(runs() / job / attended.MARK))

    assert state_of(ask, job) == "running"  # the training is
    until_now(lambda: is_held(runs() / job / attended.MARK))
    go.touch()
    assert looking.wait(PATIENCE) == 0, out.read_text()
    assert state_of(ask, job) == "completed"
    lines = mirror.read_text().splitlines()
    steps = [line.split()[1] for line in lines if line.startswith("step ")]
    assert steps == [f"{step}/40" for step in range(1, 41)]
    assert not attended.is_marked(runs() / job)
    until_now(lambda: not is_held(home / "attendant.lock"))


def test_it_costs_little_and_ends_when_it_is_told_to(home: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(attendant.SECONDS, "60")
    folder = runs() / str(uuid4())
    folder.mkdir()
    with attended.marked(folder):  # a run that is executed
        attendant.start(replace=False)
        until_now(lambda: is_held(home / "attendant.lock"))
        pid = int(until_now(lambda: (home / "attendant.lock").read_text()))
        attendant.start(replace=False)
        process = psutil.Process(pid)
        until_now(lambda: process.status() == psutil.STATUS_SLEEPING)

        assert process.memory_info().rss < 20e6
        assert not any("prefect" in m.path for m in process.memory_maps())

        attendant.start(replace=True)
        newer = int(
            until_now(lambda: (p := (home / "attendant.lock").read_text()) != str(pid) and p)
        )
        assert not is_running(pid)
        attendant.stop()
        assert newer != pid
        until_now(lambda: not is_held(home / "attendant.lock"))


def test_it_sends_what_had_to_wait_and_then_ends(home: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(attendant.SECONDS, "0.2")
    monkeypatch.setenv("HOOK_KEY", "a-key-that-signs")
    with web_receiver() as web:
        job = {"id": "1", "name": "small"}
        Outbox.of(Destination(to=web.url, key="HOOK_KEY")).add(
            {"id": "1", "what": "completed", "at": time.time(), "job": job}
        )
        attendant.start(replace=False)
        until_now(web.came.is_set)
        until_now(lambda: not is_held(home / "attendant.lock"))

    assert len(web.requests) == 1


def hold(folder: Path, **machine: object) -> None:
    folder.mkdir()
    row = {"ended_at": None, "kept_until": 0.0, "workspace": "", **machine}
    (folder / "machines.json").write_text(json.dumps({"machines": [row]}))


def test_it_goes_by_what_lies_in_the_folders():
    left, kept, home_again, ended, held = (runs() / name for name in "abcde")
    hold(left)
    hold(kept, kept_until=time.time() + 60)
    hold(home_again, workspace=str(instances() / "to-x"))
    hold(ended, ended_at="2026-01-01")
    held.mkdir()
    with attended.marked(held):
        assert attendant.left_alone() == {"a"}
        assert attendant.unfinished()
    assert attendant.left_alone() == {"a", "e"}

    day_old = time.time() - attendant.FORGOTTEN_SECONDS - 1
    os.utime(held / attended.MARK, (day_old, day_old))
    assert attendant.left_alone() == {"a"}


def test_a_reconcile_that_is_held_up_delays_no_other_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(attendant.SECONDS, "0.1")
    begun = tmp_path / "begun"
    hangs = f"import time; open({str(begun)!r}, 'a').write('x'); time.sleep(600)"
    monkeypatch.setattr(attendant, "own_python", lambda *_: [sys.executable, "-c", hangs])
    first, second = runs() / "first", runs() / "second"
    hold(first)
    attending = threading.Thread(target=attendant.main)
    attending.start()
    try:
        until_now(lambda: begun.exists() and begun.read_text() == "x")
        hold(second)
        until_now(lambda: begun.read_text() == "xx")
        assert all(process.poll() is None for process in attendant._started), "the first hangs on"
    finally:
        for folder in (first, second):
            shutil.rmtree(folder, ignore_errors=True)
        attending.join(20)
        for process in attendant._started:
            process.kill()
            process.wait()
        attendant._started.clear()
    assert not attending.is_alive()


def test_of_two_processes_the_last_removes_the_mark(tmp_path: Path):
    with attended.marked(tmp_path) as first, attended.marked(tmp_path) as second:
        attended.unmark(tmp_path, first)
        assert attended.is_marked(tmp_path)
        fcntl.flock(first, fcntl.LOCK_UN)
        attended.unmark(tmp_path, second)
        assert not attended.is_marked(tmp_path)


def test_where_it_attends_no_schedule_is_missed(monkeypatch: pytest.MonkeyPatch):
    assert attendant.why_no_schedule() is None  # there is none in tests
    monkeypatch.setenv(attendant.SECONDS, "60")
    assert "no run of this computer is unfinished" in (attendant.why_no_schedule() or "")

    hold(runs() / "left")

    assert attendant.why_no_schedule() is None
