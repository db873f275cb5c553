"""`trainctl submit` and what is on the worker's computer only; `run` and what is not installed here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from flows.job_file import load_job
from flows.preflight import not_here
from gateway.checks import checked_job
from tests.gateway.commanding import EXAMPLES, Trainctl, call_here, job_file
from trainer.contract.errors import OrchestratorError

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("training", "field"),
    [
        ({"model": "/data/models/llama"}, "training.model"),
        ({"model": "./llama"}, "training.model"),
        ({"dataset": "/data/chats.jsonl"}, "training.dataset.path"),
        ({"dataset": "chats.jsonl"}, "training.dataset.path"),
        (
            {"dataset": {"path": str(EXAMPLES / "quickstart.jsonl"), "eval_path": "/data/e.jsonl"}},
            "training.dataset.eval_path",
        ),
        ({"callbacks": ["/data/mine.py:Stop"]}, "training.callbacks"),
    ],
)
def test_what_only_the_worker_has_is_noted_and_left_to_it(
    training: dict[str, object], field: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    path = job_file(tmp_path, **training)

    checked_job(path, for_worker=True)

    said = capsys.readouterr().err
    assert said.startswith(field)
    assert said.endswith("is not on this computer; the worker must have it\n")
    with pytest.raises(OrchestratorError):
        checked_job(path)


def test_a_relative_path_starts_at_the_job_file_wherever_the_worker_is(tmp_path: Path):
    path = job_file(tmp_path, model="models/own/llama", dataset="rows/chats.jsonl")

    job = load_job(path)

    assert dict(not_here(job)) == {
        "training.model": str(tmp_path / "models/own/llama"),
        "training.dataset.path": str(tmp_path / "rows/chats.jsonl"),
    }


def test_names_on_the_hub_stay_as_they_are(tmp_path: Path):
    job = load_job(job_file(tmp_path, model="org/llama", dataset="org/chats"))

    assert (job.training.model, job.training.dataset.path) == ("org/llama", "org/chats")
    assert list(not_here(job)) == []


def test_what_is_here_is_looked_at_though_something_is_not(tmp_path: Path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"messages": []}\n')
    path = job_file(tmp_path, model="/data/llama", dataset=str(rows))

    with pytest.raises(OrchestratorError, match=r"rows\.jsonl:1"):
        checked_job(path, for_worker=True)


def test_a_job_for_elsewhere_is_handed_over(trainctl: Trainctl, tmp_path: Path):
    deployed = trainctl("deploy")
    assert deployed.returncode == 0, deployed.stderr
    path = job_file(tmp_path, model="/data/llama")

    done = trainctl("submit", path, "--json")

    assert done.returncode == 0, done.stderr
    assert "training.model: /data/llama is not on this computer" in done.stderr
    job = json.loads(trainctl("status", json.loads(done.stdout)["id"], "--json").stdout)
    assert job["job"]["training"]["model"] == "/data/llama"
    assert (job["pool"], job["queue"]) == ("local-gpu", "default")
    assert "no worker is online" in job["waiting"]["text"]


@pytest.fixture
def without_torch(tmp_path: Path) -> dict[str, str]:
    """Return the environment of a Python that has all packages but torch and trl."""
    packages = tmp_path / "packages"
    packages.mkdir()
    for path in Path(sysconfig.get_paths()["purelib"]).iterdir():
        if path.name.split("-")[0] not in {"torch", "trl"} and path.suffix != ".pth":
            (packages / path.name).symlink_to(path)
    return {"PYTHONPATH": f"{ROOT}:{packages}"}


@pytest.mark.parametrize("command", ["validate", "run"])
def test_what_training_here_needs_is_missed_before_a_run_is_made(
    command: str, without_torch: dict[str, str], prefect_server: str, tmp_path: Path
):
    path = job_file(tmp_path)

    def call(*words: object) -> subprocess.CompletedProcess[str]:
        program = "import sys; from gateway.cli import main; main(sys.argv[1:])"
        return subprocess.run(
            [sys.executable, "-S", "-c", program, *map(str, words)],
            env={**os.environ, **without_torch, "PREFECT_API_URL": prefect_server},
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )

    done = call(command, path)

    said = done.stdout + done.stderr
    assert done.returncode == (2 if command == "validate" else 1), said
    assert "lacks torch, trl. Run: " in said
    assert "pip install 'training-orchestrator[trainer]'" in said
    assert "job " not in done.stdout.replace("ok     job ", "")


def test_validate_is_strict(tmp_path: Path, capfd):
    done = call_here(capfd, "validate", job_file(tmp_path, model="/data/llama"))

    assert done.returncode == 2
    assert "ERROR  model" in done.stdout
