"""`trainctl validate --prove` says what the log of the training will say, and runs no code of the user's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flows.preflight import PROOF, subject_of
from tests.gateway.commanding import call_here, job_file, make_job
from trainer.config import extras
from trainer.contract.errors import DependencyError


@pytest.mark.thorough
def test_the_path_is_proven_and_said(tmp_path: Path, capfd):
    path = job_file(tmp_path)

    done = call_here(capfd, "validate", path, "--prove", "--json")

    assert done.returncode == 0, done.stdout
    found = json.loads(done.stdout)["checks"]["proof"]
    assert found["text"].startswith("rows of a batch: by document, as each alone to ")
    assert found["proofs"][0]["refuted"] == {}


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"formatting": "mine.py:tidy"}, "code of yours is not run here"),
        ({"parallelism": "fsdp"}, "fsdp splits the model"),
    ],
)
def test_what_cannot_be_tried_is_said(settings: dict[str, Any], why: str):
    training = make_job().training.model_copy(update=settings)
    job = make_job().model_copy(update={"training": training})

    assert why in PROOF.look(subject_of(job)).text


def test_where_torch_is_missing_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(extras, "NEEDED", ("no-such-package",))

    with pytest.raises(DependencyError, match="no-such-package") as caught:
        PROOF.look(subject_of(make_job()))

    assert "pip install 'training-orchestrator[trainer]'" in caught.value.suggestion
