"""A job that goes on later does not go on from other data, template, code or weights in silence."""

from __future__ import annotations

import json
import shutil

import pytest
import safetensors.torch

from tests.trainer.jobs import PausesAfter
from trainer.contract.checkpoints import ACCEPT_VARIABLE
from trainer.contract.errors import ConfigError
from trainer.contract.job_directory import Desired, JobState

pytestmark = pytest.mark.xdist_group("torch")
FORMATTING = "def rows(row):\n    return {'messages': row['messages']}\n"


class Own:
    """A job whose model, rows and code are its own to change."""

    def __init__(self, folder, base_model, rows, make_job):
        self.model, self.rows, self.code = (
            folder / "model",
            folder / "rows.jsonl",
            folder / "own.py",
        )
        shutil.copytree(base_model, self.model)
        shutil.copy(rows, self.rows)
        self.code.write_text(FORMATTING)
        settings = {"model": str(self.model), "formatting": f"{self.code}:rows", "max_steps": 4}
        self.job = make_job(folder / "job", data={"path": str(self.rows)}, **settings)

    def pause(self, after: int) -> None:
        assert self.job.train(PausesAfter(self.job.directory, after)) is JobState.PAUSED
        self.job.directory.request(Desired.RUN)

    def other_rows(self) -> None:
        lines = self.rows.read_text().splitlines()
        self.rows.write_text("\n".join([*lines[1:], lines[0]]) + "\n")

    def other_code(self) -> None:
        self.code.write_text(f"{FORMATTING}# another day\n")

    def other_template(self) -> None:
        path = self.model / "tokenizer_config.json"
        there = [path, self.model / "chat_template.jinja"]
        template = next((p.read_text() for p in there[1:] if p.exists()), None)
        if template is not None:
            there[1].write_text(f"{template}\n")
            return
        content = json.loads(path.read_text())
        content["chat_template"] += "\n"
        path.write_text(json.dumps(content))

    def other_weights(self) -> None:
        path = self.model / "model.safetensors"
        weights = {name: t + 0.01 for name, t in safetensors.torch.load_file(path).items()}
        safetensors.torch.save_file(weights, path, metadata={"format": "pt"})


@pytest.fixture
def own(tmp_path, base_model, rows, make_job):
    return Own(tmp_path, base_model, rows, make_job)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (Own.other_rows, "dataset.path (SHA-256 "),
        pytest.param(Own.other_code, "the code own.py (SHA-256 ", marks=pytest.mark.thorough),
        pytest.param(Own.other_template, "the chat template (SHA-256 ", marks=pytest.mark.thorough),
        (Own.other_weights, "training.model (SHA-256 "),
    ],
)
def test_what_changed_while_a_job_was_paused_is_refused_by_name(own, change, named):
    own.pause(after=2)
    change(own)

    with pytest.raises(ConfigError) as refused:
        own.job.train()

    assert "Since checkpoint-2 was saved" in refused.value.message
    assert named in refused.value.message
    assert "--accept-changes" in refused.value.suggestion
    assert own.job.saved_steps == [2]


@pytest.mark.thorough
def test_an_acceptance_holds_for_the_changes_of_its_day_and_no_later_ones(own, monkeypatch):
    own.pause(after=1)
    own.other_rows()
    monkeypatch.setenv(ACCEPT_VARIABLE, "monday")
    own.pause(after=1)  # goes on, and is paused a step later
    own.pause(after=1)  # nothing has changed since
    own.other_rows()
    with pytest.raises(ConfigError):
        own.job.train()
    monkeypatch.setenv(ACCEPT_VARIABLE, "tuesday")

    assert own.job.train() is JobState.COMPLETED


def test_a_job_of_which_nothing_changed_goes_on(own):
    own.pause(after=2)
    own.rows.touch()

    assert own.job.train() is JobState.COMPLETED
