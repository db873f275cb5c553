"""What can be refused before any money is spent, is."""

from __future__ import annotations

import json
from uuid import uuid4

import pytest

from flows.tasks.place import place
from tests.flows.flow_runs import make_job
from trainer.contract.errors import ConfigError, DataError


@pytest.fixture(autouse=True)
def run(monkeypatch):
    """Let the step find the run that it belongs to, one that has hired nothing yet."""
    monkeypatch.setenv("PREFECT__FLOW_RUN_ID", str(uuid4()))


async def test_a_missing_token_is_told_before_anything_is_hired(monkeypatch):
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)

    with pytest.raises(ConfigError, match=r"training\.push_to_hub = 'ada/x': there is no token"):
        await place.fn(make_job(push_to_hub="ada/x"))


async def test_a_model_that_cannot_be_exported_is_told_before_anything_is_hired(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mamba"}))

    with pytest.raises(ConfigError, match=r"training\.export: gguf: .* is of type 'mamba'"):
        await place.fn(make_job(model=str(tmp_path), export=["gguf"]))


async def test_wrong_rows_are_told_before_anything_is_hired(tmp_path, monkeypatch):
    (tmp_path / "bad.jsonl").write_text('{"question": "?"}\n')
    monkeypatch.setenv("SSH_HOSTS", "me@127.0.0.1")
    job = make_job(dataset={"path": str(tmp_path / "bad.jsonl")})

    with pytest.raises(DataError, match="question"):
        await place.fn(job.model_copy(update={"provider": "ssh"}))
