"""Two processes that really train one model: as one would, and interrupted as if nothing had been."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.trainer.jobs import EXACT, Job
from tests.trainer.supervised import ENVIRONMENT, command
from trainer.contract import checkpoints
from trainer.contract.errors import IntegrityError
from trainer.contract.job_directory import Desired, JobState
from trainer.contract.manifest import write_manifest
from trainer.supervision.network import free_port

pytestmark = [pytest.mark.xdist_group("torch"), pytest.mark.slow]
SETTINGS = {
    "peft": {"r": 4, "lora_alpha": 8, "lora_dropout": 0.0},
    "gradient_accumulation_steps": 2,
    "data": {"eval_fraction": 0.2},  # 24 rows to train on: epochs of 6 steps
    "max_steps": 8,
    "save_steps": 3,
    "eval_steps": 4,
    "per_device_eval_batch_size": 4,  # of 6 rows: two processes would have some twice
    "learning_rate": 0.01,
}
TROUBLE = '''
import os, signal
from pathlib import Path

import torch
from transformers import TrainerCallback


class Trouble(TrainerCallback):
    """Draws random numbers, as dropout would, and does once what a file asks for."""

    def on_step_begin(self, args, state, control, **kwargs):
        with (FOLDER / f"draws-{args.process_index}.txt").open("a") as stream:
            stream.write(f"{state.global_step} {torch.rand(()) * (1 + args.process_index):.9f}\\n")

    def on_step_end(self, args, state, control, **kwargs):
        if args.process_index == 1 and state.global_step == 2 and self.asked("pause"):
            os.kill(os.getpid(), signal.SIGTERM)  # to this process alone
        if args.process_index == 1 and state.global_step == 5 and self.asked("kill"):
            os.kill(os.getpid(), signal.SIGKILL)
        if args.process_index == 1 and state.global_step == 7:
            control.should_save = True  # what one asks for all do

    def asked(self, what):
        found = (FOLDER / what).exists()
        (FOLDER / what).unlink(missing_ok=True)
        return found
'''


class Pair:
    """A job that two processes train under a supervisor."""

    def __init__(self, make_job, folder: Path, **settings) -> None:
        folder.mkdir()
        code = folder / "trouble.py"
        code.write_text(TROUBLE.replace("FOLDER", f"Path({str(folder)!r})"))
        self.folder = folder
        self.job: Job = make_job(
            folder / "job",
            **SETTINGS,
            per_device_train_batch_size=1,
            callbacks=[f"{code}:Trouble"],
            **settings,
        )
        self.job.write(config=self.job.config, world={"processes": 2})

    def run(self) -> int:
        words = command(self.job.directory.root)
        done = subprocess.run(words, env=ENVIRONMENT, capture_output=True, timeout=240, check=False)
        return done.returncode

    @property
    def log(self) -> str:
        return self.job.directory.log.read_text()

    def draws(self, rank: int) -> dict[str, str]:
        lines = (self.folder / f"draws-{rank}.txt").read_text().splitlines()
        return dict(line.split() for line in lines)


@pytest.fixture(scope="module")
def pair(tmp_path_factory, make_job) -> Pair:
    pair = Pair(make_job, tmp_path_factory.mktemp("pair") / "two")
    assert pair.run() == 0, pair.log
    return pair


@pytest.mark.thorough
def test_two_processes_learn_what_one_learns_with_the_same_batch(tmp_path, make_job, pair):
    one = make_job(tmp_path / "one", **SETTINGS, per_device_train_batch_size=2)
    assert one.train() is JobState.COMPLETED

    assert pair.job.metrics.keys() == one.metrics.keys()
    for step, record in one.metrics.items():
        found = {name: record[name] for name in EXACT if name in record}
        assert {name: pair.job.metrics[step].get(name) for name in found} == pytest.approx(
            found, rel=1e-4
        )
    assert (
        json.loads((pair.job.directory.output / "MANIFEST.json").read_text())["data"]
        == (json.loads((one.directory.output / "MANIFEST.json").read_text())["data"])
    )


@pytest.mark.thorough
def test_only_the_first_process_speaks(pair):
    assert "[rank 1]" not in pair.log
    assert pair.log.count("dataset ") == 1
    assert (
        "an optimizer step has 4 examples: 1 per device × 2 accumulated × 2 processes" in pair.log
    )
    lines = pair.job.directory.metrics.read_text().splitlines()
    assert len(lines) == 8 + 3  # steps and evaluations


@pytest.mark.thorough
def test_a_checkpoint_has_the_random_numbers_of_every_process(tmp_path, pair):
    newest = pair.job.checkpoint(8)
    checkpoints.check(newest)
    assert pair.job.saved_steps == [8, 7]  # 7: asked for by the second process alone
    assert pair.draws(0) != pair.draws(1)

    copy = tmp_path / newest.name
    copy.mkdir()
    for path in newest.iterdir():
        if path.name not in {"rng_state_1.pth", "MANIFEST.json"}:
            (copy / path.name).write_bytes(path.read_bytes())
    write_manifest(copy, step=8, trainer="builtin", processes=2)
    with pytest.raises(IntegrityError, match=r"lacks rng_state_1\.pth"):
        checkpoints.check(copy)


@pytest.mark.thorough
def test_a_pause_and_a_killed_process_change_nothing(tmp_path, make_job, pair):
    other = Pair(make_job, tmp_path / "two")
    for what in ("pause", "kill"):
        (other.folder / what).touch()

    assert other.run() == 4  # SIGTERM to one process stops all, after the same step
    assert other.job.saved_steps == [2]
    other.job.directory.request(Desired.RUN)
    assert other.run() == 0

    assert "restart 1 of 2 after TrainerKilled: SIGKILL ended rank 1 and" in other.log
    assert other.log.count("resuming from checkpoint-") == 2
    assert other.job.curve == pair.job.curve
    assert [other.draws(rank) for rank in (0, 1)] == [pair.draws(rank) for rank in (0, 1)]
    assert other.job.weights == pair.job.weights


@pytest.mark.thorough
def test_two_machines_train_as_two_processes_of_one(tmp_path, make_job, pair):
    """The second has a disk of its own: its random numbers come to the first by the network."""
    port = free_port()
    jobs, running = [], []
    for node in (0, 1):
        other = Pair(make_job, tmp_path / f"node{node}")
        world = {"processes": 2, "nodes": 2, "node_rank": node, "master_port": port}
        limits = {"max_restarts": 0, "stall_timeout_minutes": 1}
        other.job.write(config=other.job.config, world=world, limits=limits)
        words = command(other.job.directory.root)
        running.append(subprocess.Popen(words, env=ENVIRONMENT, stdout=subprocess.DEVNULL))
        jobs.append(other)

    codes = [process.wait(240) for process in running]
    assert codes == [0, 0], jobs[0].log
    first, second = (other.job for other in jobs)
    assert first.curve == pair.job.curve
    assert first.weights == pair.job.weights
    checkpoints.check(first.checkpoint(8))
    assert (first.checkpoint(8) / "rng_state_1.pth").exists()
    assert second.status.state is JobState.COMPLETED
    assert not list(second.directory.checkpoints.iterdir())
    assert not second.directory.output.exists()
    assert not second.directory.metrics.exists()


@pytest.mark.gpu
@pytest.mark.parametrize("peft", [{"r": 4}, None], ids=["lora", "full"])
@pytest.mark.parametrize("parallelism", ["ddp", "fsdp", "deepspeed"])
def test_two_gpus_learn_and_resume(tmp_path, make_job, parallelism, peft):
    import torch

    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    if parallelism == "deepspeed":
        pytest.importorskip("deepspeed")
    settings = {**SETTINGS, "peft": peft, "parallelism": parallelism}
    job = make_job(tmp_path / "job", **settings, per_device_train_batch_size=1)
    job.write(config=job.config, world={"processes": 2})
    words = command(job.directory.root)
    for steps in (4, 8):  # the second goes on from the first
        job.write(config={**job.config, "max_steps": steps}, world={"processes": 2})
        assert subprocess.run(words, env=ENVIRONMENT, timeout=240, check=False).returncode == 0
        weights = job.weights
        shutil.rmtree(job.directory.output)
        job.directory.status.unlink()

    assert weights
    assert "resuming from checkpoint-4" in job.directory.log.read_text()
    assert job.metrics[8]["train_loss"] < job.metrics[1]["train_loss"]
