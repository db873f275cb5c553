"""What a job takes from another is the verified folder of its result, looked up where it starts."""

from __future__ import annotations

import json
from pathlib import Path
from uuid import uuid4

import pytest

from flows.batches import outputs
from flows.batches.outputs import with_outputs
from flows.job_file import with_absolute_paths
from flows.run_folder import RunFolder
from trainer.config import TrainingJob
from trainer.contract.errors import ConfigError
from trainer.contract.manifest import write_manifest

BASE, RUN = str(uuid4()), str(uuid4())


def completed(folder: Path, *, merged: bool = False, adapter: bool = True) -> Path:
    """Leave what a completed job leaves here; return its artifact."""
    artifact = folder / "base"
    for inner in (artifact, *([artifact / "merged"] if merged else [])):
        inner.mkdir()
        (inner / "model.safetensors").write_bytes(b"x")
    (artifact / ("adapter_config.json" if adapter else "config.json")).write_text("{}")
    files = write_manifest(artifact)["files"]
    report = {"run_id": BASE, "name": "base", "path": str(artifact)}
    report |= {"file": str(artifact / "model.safetensors"), **files["model.safetensors"]}
    RunFolder(BASE).report.write_text(json.dumps(report))
    return artifact


@pytest.fixture(autouse=True)
def one_batch(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Let Prefect know of one job in the batch; return it, to be changed."""
    known = {"base": BASE}

    async def ids(*_: object) -> dict[str, str]:
        return known

    monkeypatch.setattr(outputs, "_ids", ids)
    return known


def job(**training: object) -> TrainingJob:
    return TrainingJob.model_validate(
        {"name": "a", "training": {"model": "org/m", "dataset": "org/rows", **training}}
    )


async def test_a_model_is_the_merged_one_of_an_adapter_and_everything_else_its_folder(
    tmp_path: Path,
):
    artifact = completed(tmp_path, merged=True)
    asked = job(model="${base.output}", dataset="${base.output}/rows.jsonl")

    found = await with_outputs(asked, RunFolder(RUN))

    assert found.training.model == str(artifact / "merged")
    assert found.training.dataset.path == f"{artifact}/rows.jsonl"
    assert (await with_outputs(job(), RunFolder(RUN))) == job()


async def test_an_adapter_and_a_whole_model_are_their_own_folder(tmp_path: Path):
    artifact = completed(tmp_path, adapter=False)

    assert (await with_outputs(job(model="${base.output}"), RunFolder(RUN))).training.model == str(
        artifact
    )
    taken = await with_outputs(job(adapter="${base.output}"), RunFolder(RUN))
    assert taken.training.adapter == str(artifact)


async def test_a_resumed_job_goes_on_with_what_it_began_with(
    tmp_path: Path, one_batch: dict[str, str]
):
    completed(tmp_path)
    first = await with_outputs(job(adapter="${base.output}"), RunFolder(RUN))
    one_batch["base"] = str(uuid4())  # it was submitted again since, and is not completed

    assert await with_outputs(job(adapter="${base.output}"), RunFolder(RUN)) == first


@pytest.mark.parametrize(
    ("known", "message"),
    [
        ({}, "this job is of no batch that has a job base. Submit both together: trainctl batch"),
        ({"base": str(uuid4())}, "was trained by the worker of another computer"),
    ],
)
async def test_what_is_not_here_is_said(
    known: dict[str, str], message: str, one_batch: dict[str, str]
):
    one_batch.clear()
    one_batch.update(known)

    with pytest.raises(ConfigError) as caught:
        await with_outputs(job(model="${base.output}"), RunFolder(RUN))
    assert message in str(caught.value)
    assert caught.value.message.startswith("training.model = ${base.output}: ")


async def test_a_damaged_output_is_never_taken(tmp_path: Path):
    (completed(tmp_path) / "model.safetensors").write_bytes(b"y")

    with pytest.raises(ConfigError, match=r"the artifact of job .* is damaged"):
        await with_outputs(job(adapter="${base.output}"), RunFolder(RUN))


def test_a_reference_is_no_path_of_the_job_file(tmp_path: Path):
    training = {
        "model": "${a.output}",
        "adapter": ["${a.output}"],
        "dataset": "${a.output}/x.jsonl",
    }

    found = with_absolute_paths({"training": training}, tmp_path)

    assert found == {"training": training}
