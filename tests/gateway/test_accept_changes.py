"""Data that change while a job is paused are refused, until a person accepts them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.gateway.commanding import EXAMPLES, Trainctl, job_file
from tests.waiting import until_now

pytestmark = [
    pytest.mark.xdist_group("trainctl-run"),
    pytest.mark.usefixtures("warm_trainers"),
]


@pytest.mark.thorough
def test_changed_rows_are_refused_and_then_accepted(
    trainctl: Trainctl, prefect_api: str, tmp_path: Path
):
    rows = tmp_path / "rows.jsonl"
    shutil.copy(EXAMPLES / "quickstart.jsonl", rows)
    path = job_file(tmp_path, dataset={"path": str(rows)}, max_steps=20000, save_steps=20000)
    job = trainctl("run", path, "--detach").stdout.split()[1]

    def state() -> str:
        return str(json.loads(trainctl("status", job, "--json").stdout)["state"])

    until_now(lambda: state() == "running")
    assert trainctl("pause", job).returncode == 0
    rows.write_text("\n".join(reversed(rows.read_text().splitlines())) + "\n")

    refused = trainctl("resume", job)
    assert refused.returncode == 1, refused.stderr
    assert "dataset.path (SHA-256 " in refused.stdout + refused.stderr
    assert "--accept-changes" in refused.stdout + refused.stderr

    assert trainctl("resume", job, "--accept-changes", "--detach").returncode == 0
    until_now(lambda: state() == "running")
    assert trainctl("cancel", job).returncode == 0
