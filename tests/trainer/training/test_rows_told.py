"""A training says once what becomes of its rows: in the log, the events, the manifest and the card."""

import json

import pytest

from trainer.contract.events import Kind
from trainer.contract.job_directory import JobState
from trainer.engine.model import load_tokenizer
from trainer.training.estimate import lengths
from trainer.training.train import read_config

pytestmark = pytest.mark.xdist_group("torch")
ASK, ANSWER = {"role": "user", "content": "a model"}, {"role": "assistant", "content": "a token"}
LONG = {"role": "user", "content": "a model " * 99}
LINE = (
    "4 rows, format messages: 1 kept, 3 dropped (3: nothing to learn within max_length), "
    "1 held out; 1 to train on"
)


def test_dropped_rows_are_told_wherever_a_person_looks(tmp_path, make_job, capsys):
    rows = [{"messages": [ASK, ANSWER], "id": 1}] + [{"messages": [LONG, ANSWER], "id": 2}] * 3
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    job = make_job(tmp_path / "job", data={"path": str(path), "eval_path": str(path)}, max_steps=1)

    assert job.train() is JobState.COMPLETED

    log = capsys.readouterr().out.splitlines()
    assert LINE in log
    assert f"held out: {LINE.partition(', 1 held')[0]}" in log
    assert "The rows to evaluate on are those that are trained on." in log
    assert "Not read by anything: id (4 rows)." in log
    [warning] = [line for line in log if line.startswith("warning: more than half of the rows")]
    assert "3 of 4" in warning
    assert any(line.endswith("parameters on 1 rows") for line in log)
    assert [e.message for e in job.events if e.kind == Kind.ROWS_DROPPED] == [LINE]
    [first] = [event for event in job.events if event.kind == Kind.FIRST_ROW]
    assert first.message in log
    assert "a model" in first.facts["row"]
    assert "«a token" in first.facts["row"]
    manifest = json.loads((job.directory.output / "MANIFEST.json").read_text())
    assert manifest["data"]["why"] == {"nothing to learn within max_length": 3}
    assert "3 of 4 rows were dropped" in (job.directory.output / "README.md").read_text()
    config = read_config(job.directory)
    validated = lengths(config, tmp_path / "estimate", load_tokenizer(config))["told"]
    assert validated[0] == f"{LINE}."
    assert validated[-1] == f"WARNING: {warning.removeprefix('warning: ')}"
