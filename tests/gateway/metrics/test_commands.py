"""`trainctl metrics`: in and out of the store."""

from __future__ import annotations

import asyncio
import json
import math
import uuid

import numpy as np
import pandas as pd
import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from flows.run_folder import RunFolder
from gateway.metrics.store import MetricsStore
from gateway.metrics.tensorboard_files import our_name
from tests.gateway.commanding import call_here

TIME = "2026-01-19T10:30:00.125+00:00"


@pytest.fixture
def run():
    made = RunFolder(uuid.uuid4())
    records = [
        {"step": 1, "train_loss": 0.1, "timestamp": TIME, "epoch": 0.5},
        {"step": 2, "train_loss": 0.2, "eval_loss": 0.3},
    ]
    made.metrics.write_text("".join(json.dumps(each) + "\n" for each in records))
    return made


def called(capfd, *words):
    done = call_here(capfd, "metrics", *words)
    return done.returncode, done.stdout, done.stderr


def test_a_job_in_two_lines_of_pandas(capfd, run, tmp_path):
    path = tmp_path / "metrics.parquet"

    code, out, _ = called(capfd, "export", run.run_id, "--to", str(path))

    table = pd.read_parquet(path).set_index("step")
    assert (code, out) == (0, f"2 steps of 4 metrics: {path}\n")
    assert list(table) == ["timestamp", "epoch", "eval_loss", "train_loss"]
    assert table.train_loss.tolist() == [0.1, 0.2]
    assert table.timestamp[1] == pd.Timestamp(TIME)
    assert math.isnan(table.eval_loss[1])


def test_csv_by_its_name_and_other_names_are_refused(capfd, run, tmp_path):
    assert called(capfd, "export", run.run_id, "--to", str(tmp_path / "x.csv"))[0] == 0
    code, _, err = called(capfd, "export", run.run_id, "--to", str(tmp_path / "x.xls"))

    assert pd.read_csv(tmp_path / "x.csv").step.tolist() == [1, 2]
    assert code == 2
    assert ".xls" in err
    assert ".parquet or .csv" in err


def test_a_job_without_metrics_is_said_to_have_none(capfd, tmp_path):
    code, _, err = called(capfd, "export", str(uuid.uuid4()), "--to", str(tmp_path / "x.csv"))

    assert code == 2
    assert "has no metrics yet" in err


async def stored(home, job):
    engine = create_async_engine(f"sqlite+aiosqlite:///{home}/gateway.db")
    store = MetricsStore(engine)
    try:
        return await store.all_curves(job)
    finally:
        await store.close()
        await engine.dispose()


async def test_rebuild_and_prune(capfd, run, home):
    code, out, _ = await asyncio.to_thread(called, capfd, "rebuild", run.run_id)
    assert (code, out) == (0, f"{run.run_id}: built anew\n")
    assert (await stored(home, run.run_id))["eval_loss"][1].tolist() == [[pytest.approx(0.3)]]

    code, out, err = await asyncio.to_thread(called, capfd, "prune", "--days", "1")
    assert (code, out) == (0, "")
    assert "0 jobs" in err


def write_events(folder, values, start=0):
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(folder) as writer:
        for step, value in enumerate(values, start):
            writer.add_scalar("train/loss", value, step, walltime=1_790_000_000 + step)
        writer.add_text("note", "no number", 1)
        writer.add_histogram("weights", np.arange(10.0), 1)


@pytest.mark.xdist_group("torch")
async def test_event_files_of_tensorboard(capfd, tmp_path, home):
    write_events(tmp_path / "runs" / "a", [3.0, 2.0, math.nan, 1.0])
    write_events(tmp_path / "runs" / "b", [5.0, 4.0])
    (file,) = (tmp_path / "runs" / "b").glob("*tfevents*")
    file.write_bytes(file.read_bytes()[:-3])  # as a killed training leaves it

    code, out, err = await asyncio.to_thread(called, capfd, "import", str(tmp_path / "runs"))
    assert code == 0, err
    steps, values = (await stored(home, "a"))["train_loss"]

    assert "a: 8 points of 2 metrics" in out
    assert steps.tolist() == [0, 1, 2, 3]
    assert values[0].tolist() == pytest.approx([3.0, 2.0, math.nan, 1.0], nan_ok=True)
    assert (await stored(home, "a"))["timestamp"][1][0, 0] == 1_790_000_000
    assert (await stored(home, "b"))["train_loss"][0].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere"], "is no folder"),
        (["empty"], "no event file"),
        (["two", "--name", "x"], "2 runs"),
    ],
)
def test_what_cannot_be_imported(capfd, tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    for name in "ab":
        (tmp_path / "two" / name).mkdir(parents=True)
        (tmp_path / "two" / name / "events.out.tfevents.1").touch()

    code, _, err = called(capfd, "import", *words)

    assert code == 2
    assert said in err


@pytest.mark.parametrize(
    ("tag", "name"),
    [
        ("train/loss", "train_loss"),
        ("eval/loss", "eval_loss"),
        ("train/grad_norm", "grad_norm"),
        ("eval/accuracy", "eval_accuracy"),
        ("Loss/x", "Loss/x"),
    ],
)
def test_tags_get_our_names(tag, name):
    assert our_name(tag) == name
