"""`trainctl show`: the job as it is understood, and as Prefect's own command line takes it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from ruamel.yaml import YAML

from flows.job_file import load_job
from tests.gateway.commanding import EXAMPLES, Trainctl, call_here
from tests.waiting import until_now

JOB = "name: by-hand\ntraining: {model: org/base, dataset: rows.jsonl}\noutput_dir: out\n"


def test_what_is_shown_is_the_same_job(tmp_path: Path, capfd):
    path, again = tmp_path / "job.yaml", tmp_path / "elsewhere" / "job.yaml"
    again.parent.mkdir()
    path.write_text(JOB)
    (tmp_path / "rows.jsonl").touch()

    shown = call_here(capfd, "show", path)

    again.write_text(shown.stdout)
    assert load_job(again) == load_job(path)
    values = YAML(typ="safe").load(shown.stdout)
    assert values["training"]["dataset"]["path"] == str(tmp_path / "rows.jsonl")
    assert values["output_dir"] == str(tmp_path / "out")
    assert "max_steps: -1 # default" in " ".join(shown.stdout.split())
    assert "name: by-hand\n" in shown.stdout


def test_a_job_is_read_from_standard_input(tmp_path: Path):
    (tmp_path / "rows.jsonl").touch()

    shown = subprocess.run(
        [sys.executable, "-m", "gateway", "show", "-", "--json"],
        input=JOB,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    bad = subprocess.run(
        [sys.executable, "-m", "gateway", "validate", "-"],
        input="name: [",
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )

    job = json.loads(shown.stdout)
    assert job["training"]["dataset"]["path"] == str(tmp_path / "rows.jsonl")
    assert bad.returncode == 2
    assert "standard input, line 1: this is not valid YAML" in bad.stdout


@pytest.mark.thorough
def test_prefects_own_command_takes_what_is_shown(
    prefect_server: str, tmp_path: Path, trainctl: Trainctl, capfd
):
    environment = {
        **os.environ,
        "PREFECT_API_URL": prefect_server,
        "PREFECT_HOME": str(tmp_path / "prefect"),
    }

    def python(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", *words], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert trainctl("deploy").returncode == 0
    job = call_here(capfd, "show", EXAMPLES / "quickstart.yaml", "--json").stdout
    python("prefect", "deployment", "run", "train/local", "--param", f"job={job}")

    def asked() -> list[dict[str, object]]:
        wanted = {"deployments": {"name": {"any_": ["local"]}}, "limit": 5}
        found = httpx.post(f"{prefect_server}/flow_runs/filter", json=wanted)
        return [run["parameters"]["job"] for run in found.json()]

    assert json.loads(job) in until_now(asked)
