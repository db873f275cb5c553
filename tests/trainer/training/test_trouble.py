"""What goes wrong while training: named, in one sentence, and the last checkpoint still good."""

import dataclasses
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.trainer import narrow
from tests.trainer.jobs import WILD, Job, PausesAfter
from trainer.config.methods import METHODS
from trainer.contract import checkpoints, trends
from trainer.contract.errors import DiskFull, TrainingDiverged
from trainer.contract.job_directory import Desired, JobState

torch_group = pytest.mark.xdist_group("torch")


def ends_with(job: Job, capfd: pytest.CaptureFixture[str]) -> tuple[str, str]:
    """Run the trainer to its failure; return the error's class and everything printed."""
    assert job.main() == 1
    assert job.status.state is JobState.FAILED
    assert job.status.error is not None
    printed = capfd.readouterr()
    error = job.status.error
    assert f"error {error['class']}: {error['message']} {error['suggestion']}\n" in printed.out
    return error["class"], printed.out + printed.err


# A person's mistake -------------------------------------------------------------------------


def config(**changes: object) -> dict[str, object]:
    return {"model": "no/such/model", "dataset": "missing.jsonl"} | changes


MISTAKES = {
    "a missing model": (
        config(),
        "ModelNotFound",
        "training.model: no/such/model is not a folder.",
    ),
    "a folder that is no model": (config(model="/tmp"), "ModelNotFound", "/tmp has no config.json"),
    "a missing dataset": (config(model="{model}"), "DataError", "missing.jsonl"),
    "bad rows": (
        config(model="{model}", dataset="{root}/bad.jsonl"),
        "DataError",
        "bad.jsonl:2: text: is the number 3",
    ),
    "a misspelt field": (config(modle="x"), "ConfigError", "did you mean model?"),
    "no config at all": (None, "ConfigError", "holds a NoneType, not a mapping"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_at_once_and_without_a_stack(tmp_path, capfd, mistake):
    settings, kind, words = MISTAKES[mistake]
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (tmp_path / "bad.jsonl").write_text('{"text": "fine"}\n{"text": 3}\n')
    filled = json.dumps(settings).replace("{model}", str(model)).replace("{root}", str(tmp_path))
    job = Job(tmp_path / "job")
    job.write(config=json.loads(filled))

    named, printed = ends_with(job, capfd)

    assert named == kind
    assert words in job.status.error["message"]
    assert "Traceback" not in printed
    assert "loading libraries" not in printed


def test_a_job_file_that_is_no_json_is_told(tmp_path, capfd):
    job = Job(tmp_path / "job")
    job.directory.job.write_text("{")

    named, printed = ends_with(job, capfd)

    assert named == "ConfigError"
    assert "job.json is missing or no JSON object" in printed


@torch_group
def test_a_model_without_weights_is_told(tmp_path, make_job, base_model, capfd):
    model = tmp_path / "model"
    model.mkdir()
    for path in base_model.iterdir():
        if path.suffix == ".json":
            (model / path.name).write_bytes(path.read_bytes())

    named, printed = ends_with(make_job(tmp_path / "job", model=str(model)), capfd)

    assert named == "ModelNotFound"
    assert "Traceback" not in printed


@torch_group
def test_a_model_with_torn_weights_is_told(tmp_path, make_job, base_model, capfd):
    model = tmp_path / "model"
    model.mkdir()
    for path in base_model.iterdir():
        (model / path.name).write_bytes(path.read_bytes()[:100_000])

    named, _ = ends_with(make_job(tmp_path / "job", model=str(model)), capfd)

    assert named == "ModelNotFound"


# Memory -------------------------------------------------------------------------------------


@pytest.fixture
def little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let batches of more than two examples run out of memory."""
    method = dataclasses.replace(METHODS["sft"], module=narrow.__name__)
    monkeypatch.setitem(METHODS, "sft", method)
    monkeypatch.setenv(narrow.LIMIT, "2")


@torch_group
@pytest.mark.usefixtures("little_memory")
def test_memory_that_ran_out_is_named(tmp_path, make_job, capfd):
    job = make_job(tmp_path / "job", per_device_train_batch_size=4)

    named, _ = ends_with(job, capfd)

    assert named == "OutOfMemory"
    assert "can't allocate memory" in job.status.error["message"]


@torch_group
@pytest.mark.thorough
def test_a_divided_batch_learns_the_same(tmp_path, make_job, request):
    # 30 rows: the last batch of an epoch is not full.
    settings = {"per_device_train_batch_size": 4, "max_steps": 10, "learning_rate": 0.01}
    whole, divided = (make_job(tmp_path / name, **settings) for name in ("whole", "divided"))
    whole.train()

    request.getfixturevalue("little_memory")
    divided.directory.update_status(batch_divisor=2)
    assert divided.train() is JobState.COMPLETED

    for step in range(1, 11):
        expected = whole.metrics[step]["train_loss"]
        assert divided.metrics[step]["train_loss"] == pytest.approx(expected, abs=1e-5)


@torch_group
@pytest.mark.usefixtures("little_memory")
def test_memory_that_ran_out_on_the_way_costs_no_step(tmp_path, make_job, monkeypatch):
    settings = {"per_device_train_batch_size": 4, "save_steps": 2, "max_steps": 6}
    whole, divided = (make_job(tmp_path / name, **settings) for name in ("whole", "divided"))
    monkeypatch.setenv(narrow.LIMIT, "4")
    whole.train()
    from tests.trainer.jobs import PausesAfter
    from trainer.contract.job_directory import Desired

    divided.train(PausesAfter(divided.directory, 3))
    divided.directory.request(Desired.RUN)
    monkeypatch.setenv(narrow.LIMIT, "2")
    divided.directory.update_status(batch_divisor=2)
    assert divided.train() is JobState.COMPLETED

    losses = [[r["train_loss"] for r in job.metrics.values()] for job in (whole, divided)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


# Numbers ------------------------------------------------------------------------------------


def assert_finite(checkpoint: Path) -> None:
    import torch
    from safetensors.torch import load_file

    weights = load_file(checkpoint / "model.safetensors")
    assert all(torch.isfinite(weight).all() for weight in weights.values())


@torch_group
@pytest.mark.parametrize("logging_steps", [1, pytest.param(30, marks=pytest.mark.thorough)])
def test_training_that_diverged_is_ended_with_a_good_checkpoint(
    tmp_path, make_job, capfd, logging_steps
):
    job = make_job(tmp_path / "job", **WILD, logging_steps=logging_steps)

    named, printed = ends_with(job, capfd)

    assert named == "TrainingDiverged"
    if logging_steps == 1:
        assert re.search(r"losses before: .* at step \d+, ", job.status.error["message"])
        assert "a row of that step: '" in printed
    newest, rejected = checkpoints.newest_valid(job.directory.checkpoints)
    assert newest is not None
    assert rejected == {}
    for step in job.saved_steps:
        assert_finite(job.checkpoint(step))


@pytest.mark.thorough
@torch_group
def test_an_evaluation_that_is_no_number_ends_training(tmp_path, make_job):
    settings = WILD | {"data": {"eval_fraction": 0.2}, "eval_steps": 1, "logging_steps": 40}
    job = make_job(tmp_path / "job", **settings)

    with pytest.raises(TrainingDiverged, match=r"the evaluation loss was (nan|inf)"):
        job.train()

    assert len(job.evaluations) > 1
    assert "NaN" not in job.directory.metrics.read_text()


@torch_group
def test_half_the_learning_rate_goes_on_from_the_checkpoint(tmp_path, make_job):
    """What the supervisor does after a loss that is no number, once."""
    settings = {"max_steps": 6, "save_steps": 3, "learning_rate": 0.01}
    whole, halved = (make_job(tmp_path / name, **settings) for name in ("whole", "halved"))
    whole.train()
    assert halved.train(PausesAfter(halved.directory, 3)) is JobState.PAUSED
    halved.directory.request(Desired.RUN)

    halved.directory.update_status(learning_rate_factor=0.5)
    assert halved.train(PausesAfter(halved.directory, 1)) is JobState.PAUSED
    halved.directory.request(Desired.RUN)
    assert halved.train() is JobState.COMPLETED  # resumed twice, and halved once

    rates = [job.metrics[step]["learning_rate"] for job in (whole, halved) for step in (3, 4, 5, 6)]
    assert rates[4] == rates[0]
    assert rates[5:] == pytest.approx([rate / 2 for rate in rates[1:4]])


@pytest.mark.thorough
@torch_group
@pytest.mark.usefixtures("little_memory")
def test_neither_memory_that_ran_out_in_the_evaluation_nor_a_clock_that_jumps_costs_a_step(
    tmp_path, make_job, capfd, monkeypatch
):
    now, jumps = time.time(), itertools.count(0, 3600)
    monkeypatch.setattr(time, "time", lambda: now + next(jumps))
    settings = {"data": {"eval_fraction": 0.4}, "per_device_eval_batch_size": 8, "max_steps": 4}
    job = make_job(tmp_path / "job", **settings, eval_steps=2)

    assert job.train() is JobState.COMPLETED

    told = capfd.readouterr().out
    assert [f"with batches of {size}\n" in told for size in (4, 2, 1)] == [True, True, False]
    assert sorted(job.evaluations) == [0, 2, 4]
    assert sorted(job.metrics) == [0, 1, 2, 3, 4]
    speeds = [r["tokens_per_second"] for r in job.metrics.values() if "train_loss" in r]
    assert all(0 < speed < 1e6 for speed in speeds)
    assert job.metrics[2]["eta_seconds"] < 600


# Disk ---------------------------------------------------------------------------------------


@pytest.mark.thorough
def test_a_log_on_a_full_disk_ends_nothing_and_is_made_up_for(tmp_path):
    script = f"""
import os
from trainer.supervision.log import outlive_full_disks
outlive_full_disks()
print("no room")
os.dup2(os.open({str(tmp_path / "log")!r}, os.O_WRONLY | os.O_CREAT), 1)
print("room again")
"""
    with Path("/dev/full").open("w") as full:
        subprocess.run([sys.executable, "-c", script], stdout=full, check=True)

    assert (tmp_path / "log").read_text() == "no room\nroom again\n"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Yield a folder on a disk of 4 MiB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if os.getuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a disk to fill, and not in every container")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)  # the dataset is mapped


@torch_group
def test_a_disk_that_fills_while_saving_is_named_and_the_checkpoint_before_is_good(
    tmp_path, small_disk, make_job, capfd
):
    job = make_job(small_disk / "job", peft={"r": 32}, save_steps=2, save_total_limit=1)

    named, _ = ends_with(job, capfd)

    assert named == "DiskFull"
    free_and_needed = r"[0-9.]+ MiB of 4\.0 MiB are free, [0-9.]+ MiB are needed"
    assert re.search(free_and_needed, job.status.error["message"])
    assert checkpoints.newest_valid(job.directory.checkpoints) == (job.checkpoint(2), {})
    assert not list(job.directory.checkpoints.glob(".saving/*"))


@pytest.mark.thorough
@torch_group
def test_a_loss_that_does_not_fall_is_an_event_in_the_log_and_in_the_file(
    make_job, tmp_path, capfd, monkeypatch
):
    changes = {"WINDOW": 1, "LEAST": 1, "PLATEAU_SHARE": 0.0, "GAIN": 10.0, "RISE": 1e9}
    for name, value in changes.items():
        monkeypatch.setattr(trends, name, value)
    job = make_job(tmp_path / "job", max_steps=4)

    assert job.train() is JobState.COMPLETED

    event = next(event for event in job.events if event.kind == "loss_plateau")
    assert event.step == 4
    assert event.facts == {"loss": job.metrics[4]["train_loss"]}
    line = f"event loss_plateau at step 4: {event.message}\n"
    assert capfd.readouterr().out.count(line) == 1
    assert b"plateau" not in job.directory.metrics.read_bytes()


@pytest.mark.thorough
@torch_group
def test_a_disk_that_fills_while_saving_loses_old_checkpoints_first(small_disk, make_job, capfd):
    job = make_job(small_disk / "job", save_steps=1, save_total_limit=8)
    (small_disk / "ballast").write_bytes(b"x" * 1_000_000)

    assert job.train() is JobState.COMPLETED

    told = capfd.readouterr().out
    assert "the disk is full: removed checkpoint-" in told
    assert "disk_full" in [event.kind for event in job.events]
    assert job.saved_steps[0] == 8
    assert len(job.saved_steps) < 8
    assert sorted(job.metrics) == list(range(1, 9))


@torch_group
def test_a_disk_that_fills_at_the_output_loses_old_checkpoints_first(small_disk, make_job, capfd):
    job = make_job(small_disk / "job", peft={"r": 8}, max_steps=3, save_steps=1)
    job.train()
    took = sum(p.stat().st_size for p in job.checkpoint(3).rglob("*") if p.is_file())
    shutil.rmtree(job.directory.output)
    free = shutil.disk_usage(small_disk).free - took // 4
    (small_disk / "ballast").write_bytes(b"x" * free)  # the output takes some third of that

    assert job.train() is JobState.COMPLETED

    assert "the disk is full: removed checkpoint-2 and" in capfd.readouterr().out
    assert job.saved_steps == [3]


@pytest.mark.thorough
@torch_group
def test_a_disk_that_fills_at_the_output_leaves_no_half_of_it(small_disk, make_job):
    job = make_job(small_disk / "job", peft={"r": 32}, max_steps=2)
    free = 2_600_000  # enough for a checkpoint, not for the output too
    (small_disk / "ballast").write_bytes(b"x" * (4 * 2**20 - free))

    with pytest.raises(DiskFull):
        job.train()

    assert job.saved_steps == [2]
    assert not job.directory.output.exists()
    assert not (job.directory.root / ".output").exists()
    (small_disk / "ballast").unlink()
    assert job.train() is JobState.COMPLETED
