"""The package installed from a wheel, far from any clone, has all that deployments name."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NIGHTLY = """
import json
from deployments.catalogue import CATALOGUE
from flows.job_file import on_this_computer
from flows.preflight import subject_of
from trainer.config import TrainingJob
from trainer.preflight.table import Needs, refuse
from trainer.preflight.training import TRAINING
[nightly] = [each for each in CATALOGUE if each.name == "nightly"]
job = on_this_computer(TrainingJob.model_validate(nightly.parameters["job"]))
found = {r.name: r.found.facts for r in refuse(TRAINING, subject_of(job), {Needs.ROWS})}
rows = found["dataset"]["rows"]
print(json.dumps([job.training.model, job.training.dataset.path, rows]))
"""


@pytest.mark.thorough
def test_the_nightly_example_is_found_where_the_worker_is_installed(tmp_path):
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    [wheel] = tmp_path.glob("*.whl")
    elsewhere = tmp_path / "elsewhere"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", elsewhere], check=True)
    [packages] = elsewhere.glob("lib/python*/site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    # What we require, and not ourselves: a path that is named here has its own .pth files not read.
    (packages / "required.pth").write_text(sysconfig.get_path("purelib"))

    python = elsewhere / "bin" / "python"
    done = subprocess.run(
        [python, "-P", "-c", NIGHTLY], cwd=tmp_path, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    model, dataset, rows = json.loads(done.stdout)
    assert Path(model) == packages / "flows" / "examples" / "tiny-llama"
    assert Path(dataset).is_relative_to(packages)
    assert rows == 378
