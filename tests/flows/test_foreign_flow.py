"""Somebody else's trainer through the whole flow: killed on the way, and home with an artifact."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from prefect import get_client

from blocks.keys import MachineKeys
from flows.execute import create_run
from flows.shown import job_state
from flows.streaming.log_shipper import shown
from tests.clouds.machines import SshdMachine
from tests.flows.flow_runs import Job, make_job, shipped_lines
from tests.waiting import until
from trainer.config import TrainingJob
from trainer.contract.files import read_json
from trainer.contract.job_directory import JobState
from trainer.contract.manifest import verify
from trainer.contract.metrics import read_metrics

pytestmark = [
    pytest.mark.usefixtures("prefect_api"),
    pytest.mark.slow,
    pytest.mark.thorough,
]

SCRIPT = """
import json, pathlib, struct, sys, time
step = 0
if "--resume" in sys.argv:
    step = json.loads(pathlib.Path(sys.argv[sys.argv.index("--resume") + 1], "s.json").read_text())
    print("resumed at", step)
while step < 40:
    step += 1
    print(f"step {step}/40 loss {2 / step:.4f}", flush=True)
    if step % 10 == 0:
        folder = pathlib.Path(f"out/checkpoint-{step}")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "s.json").write_text(json.dumps(step))
        (folder / "done").touch()
    while step == 25 and "--resume" not in sys.argv:
        time.sleep(0.02)
final = pathlib.Path("out/final")
final.mkdir()
(final / "model.safetensors").write_bytes(struct.pack("<Q", 2) + b"{}")
"""


def foreign_job(folder: Path) -> TrainingJob:
    script = folder / "my_train.py"
    script.write_text(SCRIPT)
    command = {
        "run": ["python", "my_train.py"],
        "files": [str(script)],
        "metrics": [r"step (?P<step>\d+)/(?P<total_steps>\d+) loss (?P<train_loss>\S+)"],
        "checkpoints": "out/checkpoint-*",
        "checkpoint_marker": "done",
        "resume": ["--resume", "{resume_from}"],
    }
    job = make_job().model_dump(mode="json")
    return TrainingJob.model_validate(
        {**job, "training": {"trainer": "command", "command": command}}
    )


@pytest.fixture
def host(tmp_path, monkeypatch):
    """A host that is reached by SSH alone."""
    own = MachineKeys("own")
    with SshdMachine(tmp_path / "host", public_keys=[own.public_key()]) as host:
        monkeypatch.setenv("SSH_HOSTS", f"{host.user}@{host.address}:{host.port}")
        monkeypatch.setenv("SSH_KEY_FILE", str(own.private_key))
        yield host


async def test_a_command_and_its_files_run_on_a_machine_elsewhere(
    home, tmp_path, host, flow_process
):
    job = foreign_job(tmp_path).model_copy(update={"provider": "ssh"})
    without_hold = SCRIPT.replace("step == 25", "False")
    (tmp_path / "my_train.py").write_text(without_hold)
    run = await create_run(job)

    printed = await flow_process(run.id).ended()

    async with get_client() as client:
        assert job_state(await client.read_flow_run(run.id)) is JobState.COMPLETED, printed
    mirror = Job(home, run.id).mirror
    report = read_json(mirror / "report.json")
    assert set(verify(Path(report["path"]))["files"]) == {"model.safetensors", "README.md"}
    assert len(read_metrics(mirror / "metrics.jsonl")[0]) == 40


async def test_a_foreign_trainer_killed_on_the_way_comes_home_with_an_artifact(
    home, tmp_path, flow_process
):
    run = await create_run(foreign_job(tmp_path))
    job = Job(home, run.id)
    flow = flow_process(run.id)
    pid = (await job.at_step(25)).trainer_pid
    await until(lambda: (job.directory.checkpoints / "checkpoint-20/MANIFEST.json").exists())

    os.killpg(pid, signal.SIGKILL)
    printed = await flow.ended()

    async with get_client() as client:
        assert job_state(await client.read_flow_run(run.id)) is JobState.COMPLETED, printed
    report = read_json(job.mirror / "report.json")
    assert set(verify(Path(report["path"]))["files"]) == {"model.safetensors", "README.md"}
    steps, _ = read_metrics(job.mirror / "metrics.jsonl")
    assert (len(steps), steps[40]["train_loss"]) == (40, 0.05)
    lines = [shown(x) for x in (job.mirror / "train.log").read_bytes().splitlines()]
    assert "resumed at 20" in lines
    assert await shipped_lines(run.id) == lines
    assert job.is_gone()
