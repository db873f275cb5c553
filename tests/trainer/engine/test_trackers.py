"""Metrics go to wandb and MLflow too, into the job directory, and a resumed job goes on there."""

import json
import os
import sqlite3
import struct
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest

from tests.trainer.jobs import WILD, Job, PausesAfter
from trainer.config import TrainingConfig
from trainer.config.extras import MODULES, check_extras, extras_of
from trainer.contract.errors import ConfigError, DependencyError
from trainer.contract.job_directory import JobDirectory, JobState
from trainer.contract.manifest import verify
from trainer.engine.trackers import start_trackers

pytestmark = [
    pytest.mark.xdist_group("torch"),
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy"),  # MLflow's own
]
TRACKERS = ["tensorboard", "wandb", "mlflow"]


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory, make_job) -> Job:
    """One run that reports everywhere, paused after two steps of four and resumed."""
    job = make_job(
        tmp_path_factory.mktemp("tracked") / "job", max_steps=4, save_steps=2, report_to=TRACKERS
    )
    job.write(config=job.config, name="tracked", run_id="0123-4567")
    with patch.dict(os.environ):  # trackers are told by it
        assert job.train(PausesAfter(job.directory, 2)) is JobState.PAUSED
        job.directory.control.unlink()
        assert job.train() is JobState.COMPLETED
    return job


@pytest.mark.thorough
def test_mlflow_has_one_run_with_every_step(tracked):
    store = sqlite3.connect(tracked.directory.reports / "mlflow" / "mlflow.db")

    runs = store.execute("select name, status from runs").fetchall()
    losses = store.execute("select step, value from metrics where key = 'loss' order by step")

    assert runs == [("tracked", "FINISHED")]
    expected = [(n, r["train_loss"]) for n, r in tracked.metrics.items()]
    assert losses.fetchall() == [(n, pytest.approx(loss)) for n, loss in expected]


@pytest.mark.thorough
def test_mlflow_shows_a_failed_run_as_failed(tmp_path, make_job):
    job = make_job(tmp_path / "job", **WILD, report_to=["mlflow"])

    with patch.dict(os.environ):
        assert job.main() == 1

    store = sqlite3.connect(job.directory.reports / "mlflow" / "mlflow.db")
    assert store.execute("select status from runs").fetchall() == [("FAILED",)]


def records_of(file: Path) -> Iterator[bytes]:
    """Yield the records of a .wandb file: LevelDB's log format, after a header of 7 bytes."""
    content, at, record = file.read_bytes(), 7, b""
    while at + 7 <= len(content):
        left = 32768 - at % 32768
        if left < 7:
            at += left
        length, kind = struct.unpack_from("<HB", content, at + 4)
        record += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in {1, 4}:  # whole, or the last part
            yield record
            record = b""


@pytest.mark.thorough
def test_wandb_writes_offline_parts_of_one_run(tracked):
    from wandb.proto.wandb_internal_pb2 import Record

    ids, losses = set(), {}
    for file in tracked.directory.reports.glob("wandb/offline-run-*/run-*.wandb"):
        for record in map(Record.FromString, records_of(file)):
            if record.HasField("run"):
                ids.add((record.run.run_id, record.run.display_name))
            row = {i.key or "/".join(i.nested_key): i.value_json for i in record.history.item}
            if "train/loss" in row:
                losses[int(row["train/global_step"])] = json.loads(row["train/loss"])

    assert ids == {("0123-4567", "tracked")}
    assert losses == {n: pytest.approx(r["train_loss"]) for n, r in tracked.metrics.items()}


@pytest.mark.thorough
def test_reports_have_a_manifest_of_their_own_and_are_no_part_of_the_output(tracked):
    files = set(verify(tracked.directory.reports)["files"])

    assert {name.split("/")[0] for name in files} >= set(TRACKERS)
    for name in verify(tracked.directory.output)["files"]:
        assert not any(tracker in name for tracker in TRACKERS)


def test_what_is_not_installed_is_named_with_its_extra(monkeypatch):
    config = TrainingConfig(model="m", dataset="d", report_to=["wandb"], export=["gguf"])
    assert extras_of(config) == ["gguf", "wandb"]
    check_extras(config)
    monkeypatch.setitem(MODULES, "wandb", ("no_such_module",))

    with pytest.raises(
        DependencyError, match=r"training\.report_to: wandb .*orchestrator\[wandb\]"
    ):
        check_extras(config)


def test_an_mlflow_that_cannot_be_used_is_told_before_training(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file://{tmp_path}/old")  # MLflow 3 wants a database
    config = TrainingConfig(model="m", dataset="d", report_to=["mlflow"])

    with pytest.raises(ConfigError, match=r"training\.report_to: MLflow at file:.* cannot be used"):
        start_trackers(JobDirectory(tmp_path), config)
