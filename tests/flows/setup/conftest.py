"""Fixtures of the tests of shipping."""

from __future__ import annotations

import pytest

from tests.flows.setup.shipping import ROWS


@pytest.fixture
def base(tmp_path):
    return str(tmp_path / "there" / ".training-orchestrator")


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "here" / "model"
    (folder / "checkpoint-5").mkdir(parents=True)
    (folder / ".git").mkdir()
    for name in ("config.json", "tokenizer.json", "model.safetensors", "pytorch_model.bin"):
        (folder / name).write_text(name)
    for name in ("optimizer.pt", "checkpoint-5/model.safetensors", ".git/HEAD"):
        (folder / name).write_text(name)
    return folder


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(ROWS)
    return path
