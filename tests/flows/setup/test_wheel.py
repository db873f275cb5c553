"""The trainer as a wheel: what pip takes, and the same bytes for the same content."""

from __future__ import annotations

import email
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import parse_wheel_filename

import trainer
from flows.setup.wheel import extra_requirements, trainer_requirements, trainer_wheel


@pytest.fixture
def copied_package(tmp_path, monkeypatch):
    """Let the wheel be made of a package that a test may change."""
    package = tmp_path / "copy" / "trainer"
    (package / "__pycache__").mkdir(parents=True)
    (package / "__pycache__" / "x.cpython-311.pyc").write_bytes(b"\0")
    (package / "__init__.py").write_text("GREETING = 'hello'\n")
    monkeypatch.setattr(trainer, "__file__", str(package / "__init__.py"))
    return package


def test_equal_content_gives_equal_bytes_and_name(tmp_path):
    first = trainer_wheel(tmp_path / "a")
    second = trainer_wheel(tmp_path / "b")

    assert first.name == second.name
    assert first.read_bytes() == second.read_bytes()
    assert [path.name for path in (tmp_path / "a").iterdir()] == [first.name]


def test_it_holds_nothing_but_the_source_and_packs_that(tmp_path):
    """Every machine is sent it: a data file that got into the package would go along each time."""
    wheel = trainer_wheel(tmp_path)
    with zipfile.ZipFile(wheel) as archive:
        ours = [one for one in archive.infolist() if one.filename.startswith("trainer/")]
    assert {Path(one.filename).suffix for one in ours} == {".py"}
    assert wheel.stat().st_size < 0.4 * sum(one.file_size for one in ours)
    assert max(one.file_size for one in ours) < 32_000


def test_other_content_gives_another_version(tmp_path, copied_package):
    before = trainer_wheel(tmp_path)
    (copied_package / "__init__.py").write_text("GREETING = 'good day'\n")
    after = trainer_wheel(tmp_path)

    assert before.name != after.name


def test_compiled_and_hidden_files_stay_out(tmp_path, copied_package):
    (copied_package / ".notes").write_text("mine")

    names = zipfile.ZipFile(trainer_wheel(tmp_path)).namelist()

    assert [name for name in names if ".dist-info/" not in name] == ["trainer/__init__.py"]


def test_it_requires_what_the_trainer_imports_and_no_prefect(tmp_path):
    wheel = trainer_wheel(tmp_path)
    name, version, _, tags = parse_wheel_filename(wheel.name)
    archive = zipfile.ZipFile(wheel)
    [path] = [path for path in archive.namelist() if path.endswith(".dist-info/METADATA")]
    metadata = email.message_from_bytes(archive.read(path))

    assert (name, metadata["Version"]) == ("training-orchestrator-trainer", str(version))
    assert [str(tag) for tag in tags] == ["py3-none-any"]
    assert metadata.get_all("Requires-Dist") == trainer_requirements()
    names = {Requirement(text).name for text in trainer_requirements()}
    assert {"torch", "trl", "pydantic", "psutil", "pyarrow", "nvidia-ml-py"} <= names
    assert not {"prefect", "asyncssh", "rich", "typer"} & names


def test_an_extra_requires_more_than_every_job_does():
    more = {Requirement(text).name for text in extra_requirements(["gguf", "wandb"])}

    assert more == {"gguf", "wandb"}
    assert not more & {Requirement(text).name for text in trainer_requirements()}


@pytest.mark.thorough
def test_pip_installs_it_and_the_trainer_runs_from_there(tmp_path):
    wheel = trainer_wheel(tmp_path)
    target = tmp_path / "target"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--target", str(target), str(wheel)], check=True, capture_output=True)

    result = subprocess.run(
        [sys.executable, "-S", "-m", "trainer", "--help"],  # -S: nothing but what was installed
        env={**os.environ, "PYTHONPATH": str(target)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )

    assert result.returncode == 0, result.stderr
    assert "job directory" in result.stdout
    [info] = target.glob("*.dist-info")
    assert (info / "RECORD").read_text().count("trainer/") > 30
