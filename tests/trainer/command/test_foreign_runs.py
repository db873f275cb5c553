"""A foreign command under the real supervisor: to its end, and through what may disturb it."""

from __future__ import annotations

import os
import signal
import sys

import pytest

from tests.processes import is_running
from tests.trainer.command.scripts import foreign, python
from tests.waiting import PATIENCE, until_now
from trainer.command.keeping import CheckpointKeeper, resume_point
from trainer.command.plan import make_plan
from trainer.contract.checkpoints import all_checkpoints, newest_valid, step_of
from trainer.contract.job_directory import Desired, JobDirectory, JobState
from trainer.contract.manifest import verify
from trainer.contract.metrics import read_metrics


def steps_saved(job):
    return [step_of(path) for path in all_checkpoints(job.job.checkpoints)]


def at_step(job, step):
    until_now(lambda: job.status.step >= step)


def test_a_command_ends_with_an_artifact_metrics_and_its_log(tmp_path):
    job = foreign(tmp_path / "job")

    done = job.run()

    assert done.returncode == 0, done.stderr
    assert job.status.state is JobState.COMPLETED
    files = verify(job.job.output)["files"]
    assert set(files) == {"model.safetensors", "README.md"}
    steps, skipped = read_metrics(job.job.metrics)
    assert (len(steps), skipped) == (20, 0)
    assert steps[20]["train_loss"] == 0.05
    assert steps[20]["total_steps"] == 20
    assert steps[20]["attempt"] == 1
    assert "all is done" in job.log
    assert steps_saved(job) == [20, 15]


def test_a_killed_command_continues_from_the_newest_valid_checkpoint(tmp_path):
    job = foreign(tmp_path / "job", "--hold", "13")
    process = job.start()
    at_step(job, 13)
    until_now(lambda: 10 in steps_saved(job))

    os.killpg(job.status.trainer_pid, signal.SIGKILL)
    process.wait(PATIENCE)

    assert job.status.state is JobState.COMPLETED
    assert job.status.restarts == 1
    assert "resumed at 10" in job.log
    assert sorted(read_metrics(job.job.metrics)[0]) == list(range(1, 21))


def test_a_torn_checkpoint_is_passed_over(tmp_path):
    go = tmp_path / "go"
    job = foreign(tmp_path / "job", "--hold", "7", "--hold", "13", "--go", str(go))
    process = job.start()
    until_now(lambda: 5 in steps_saved(job))
    go.write_text("7")
    at_step(job, 13)
    until_now(lambda: 10 in steps_saved(job))
    torn = job.job.checkpoints / "checkpoint-10" / "state.json"
    torn.unlink()
    torn.write_text("{")
    (job.job.root / "out/checkpoint-10/done").unlink()

    os.killpg(job.status.trainer_pid, signal.SIGKILL)
    process.wait(PATIENCE)

    assert job.status.state is JobState.COMPLETED
    assert "skipped a checkpoint" in job.log
    assert "resumed at 5" in job.log
    found = [event for event in job.events if event.kind in {"checkpoint_passed_over", "resumed"}]
    assert [event.facts["checkpoint"] for event in found] == ["checkpoint-10", "checkpoint-5"]
    assert {5, 10, 15, 20} == {event.step for event in job.events if event.kind == "saved"}


@pytest.mark.parametrize(
    ("desired", "state"), [(Desired.PAUSE, JobState.PAUSED), (Desired.STOP, JobState.STOPPED)]
)
def test_a_request_lets_the_command_save_and_end_and_resume(tmp_path, desired, state):
    job = foreign(tmp_path / "job", "--hold", "13")
    process = job.start()
    at_step(job, 13)

    job.job.request(desired, grace_seconds=20, reason="a test")
    process.wait(PATIENCE)

    assert job.status.state is state
    assert job.status.reason == "a test"
    newest, _ = newest_valid(job.job.checkpoints)
    assert newest is not None
    assert step_of(newest) == 13
    job.job.request(Desired.RUN)
    assert job.run().returncode == 0
    assert "resumed at 13" in job.log


def test_a_pause_that_is_withdrawn_while_the_command_ends_makes_no_result_of_the_half(tmp_path):
    code = (
        "import pathlib, signal, sys, time\n"
        "asked, go, out = map(pathlib.Path, ('asked', 'go', 'out/final'))\n"
        "def leave(text):\n"
        "    out.mkdir(parents=True, exist_ok=True); (out / 'model.txt').write_text(text)\n"
        "    (out / 'model.safetensors').write_bytes((2).to_bytes(8, 'little') + b'{}')\n"
        "    sys.exit(0)\n"
        "def end(*_):\n"
        "    asked.touch()\n"
        "    while not go.exists(): time.sleep(0.01)\n"
        "    leave('half')\n"
        "signal.signal(15, end)\n"
        "if asked.exists(): leave('whole')\n"
        "print('step 1', flush=True); time.sleep(600)"
    )
    job = foreign(tmp_path / "job", run=python(code), metrics=[r"step (?P<step>\d+)"])
    process = job.start()
    at_step(job, 1)

    job.job.request(Desired.PAUSE, grace_seconds=20)
    until_now((job.job.root / "asked").exists)
    job.job.request(Desired.RUN)
    (job.job.root / "go").touch()
    process.wait(PATIENCE)

    assert job.status.state is JobState.COMPLETED
    assert (job.job.output / "model.txt").read_text() == "whole"


def test_a_signal_to_the_supervisor_stops_the_command_behind_a_shell(tmp_path):
    job = foreign(tmp_path / "job")
    line = "echo begun; python my_train.py --out {checkpoints} --final {output} --hold 7; true"
    job = foreign(tmp_path / "job", run=line)
    process = job.start()
    at_step(job, 7)

    process.send_signal(signal.SIGTERM)
    process.wait(PATIENCE)

    assert job.status.state is JobState.STOPPED
    assert 7 in steps_saved(job)


def test_a_command_that_does_not_end_is_killed_with_all_it_started(tmp_path):
    code = (
        "import os, signal, subprocess, sys, time; signal.signal(15, signal.SIG_IGN)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import signal, time;"
        "signal.signal(15, signal.SIG_IGN); time.sleep(600)'])\n"
        "open('pids', 'w').write(f'{os.getpid()} {child.pid}')\n"
        "print('step 1', flush=True); time.sleep(600)"
    )
    job = foreign(tmp_path / "job", run=python(code), metrics=[r"step (?P<step>\d+)"])
    process = job.start()
    at_step(job, 1)

    job.job.request(Desired.STOP, grace_seconds=0.3)
    process.wait(PATIENCE)

    assert job.status.state is JobState.STOPPED
    pids = (job.job.root / "pids").read_text().split()
    until_now(lambda: not any(is_running(int(pid)) for pid in pids))


def test_metrics_are_read_from_a_file_too_and_a_bar_of_something_else_is_not_believed(tmp_path):
    code = (
        "import json, pathlib, sys\n"
        "print('step 1/4', 'step 9/9', sep='\\r', flush=True)\n"
        "out = pathlib.Path('out/final'); out.mkdir(parents=True)\n"
        "out.parent.joinpath('log.jsonl').write_text(json.dumps({'s': 4, 'loss': 0.5}) + '\\n')\n"
        "(out / 'a.safetensors').touch()"
    )
    job = foreign(
        tmp_path / "job",
        run=[sys.executable, "-c", code],
        metrics=[
            r"step (?P<step>\d+)/(?P<total_steps>\d+)",
            r'"s": (?P<step>\d+), "loss": (?P<train_loss>[\d.]+)',
        ],
        metrics_file="out/log.jsonl",
    )

    assert job.run().returncode == 0

    steps, _ = read_metrics(job.job.metrics)
    assert {n: r["train_loss"] for n, r in steps.items()} == {4: 0.5}
    assert job.status.total_steps == 4


def test_a_checkpoint_without_a_marker_is_complete_when_nothing_changes(tmp_path):
    job = foreign(
        tmp_path / "job", "--hold", "7", checkpoint_marker=None, checkpoint_still_seconds=0.1
    )
    process = job.start()

    until_now(lambda: 5 in steps_saved(job))
    process.send_signal(signal.SIGTERM)
    process.wait(PATIENCE)

    assert steps_saved(job) == [7, 5]


def test_what_is_torn_in_another_projects_folder_is_not_left_for_it_to_resume_from(tmp_path):
    directory = JobDirectory(tmp_path)
    command = {
        "run": ["theirs"],
        "checkpoints": "out/checkpoint-*",
        "checkpoint_marker": "trainer_state.json",
    }
    for step, state in ((10, "{}"), (20, "{"), (30, None)):
        folder = tmp_path / f"out/checkpoint-{step}"
        folder.mkdir(parents=True)
        (folder / "model.safetensors").touch()
        if state:
            (folder / "trainer_state.json").write_text(state)
    plan = make_plan(directory, {"trainer": "llama-factory"}, command, None)

    CheckpointKeeper(directory, plan).catch_up()

    newest, rejected = resume_point(directory)
    assert (newest, rejected) == (tmp_path / "checkpoints/checkpoint-10", {})
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["checkpoint-10"]
