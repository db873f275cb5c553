"""An adapter may be named by the job that made it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from uuid import uuid4

import pytest

from blocks.models import Instance, InstanceStatus
from flows import preflight
from flows.earlier_jobs import adapter_of, job_of
from flows.job_file import load_job, on_this_computer
from flows.run_folder import RunFolder
from flows.streaming.training import RemoteTraining
from flows.tasks.place import place
from flows.train import _resolved
from trainer.contract.errors import ConfigError
from trainer.contract.manifest import write_manifest
from trainer.preflight.table import Needs, walk

FIRST, SECOND = "1a2b0000-0000-4000-8000-00000000aaaa", "1a2b0000-0000-4000-8000-00000000bbbb"


@pytest.fixture
def completed(tmp_path):
    """Leave what a completed job leaves on this computer; return its artifact."""

    def leave(
        run_id: str, name: str = "by-hand", at: int = 1, settings: str = "adapter_config.json"
    ):
        folder = tmp_path / f"{name}-{run_id[-4:]}"
        folder.mkdir()
        (folder / "adapter_model.safetensors").write_bytes(run_id.encode())
        (folder / settings).write_text(
            '{"peft_type": "LORA", "base_model_name_or_path": "org/base"}'
        )
        files = write_manifest(folder)["files"]
        run, weights = RunFolder(run_id), "adapter_model.safetensors"
        report = {"run_id": run_id, "name": name, "path": str(folder)}
        report |= {"file": str(folder / weights), **files[weights]}
        run.report.write_text(json.dumps(report))
        os.utime(run.report, (at, at))
        return folder

    return leave


def test_a_job_is_found_by_its_id_a_part_of_it_or_its_name(completed):
    first, second = completed(FIRST, at=2), completed(SECOND, at=1)

    assert adapter_of(FIRST) == adapter_of("AAAA") == adapter_of("0000aaaa") == first
    assert adapter_of("00bbbb") == second
    assert adapter_of("by-hand") == first  # the one that was completed last
    assert (job_of(first), job_of(second), job_of(first.parent)) == (FIRST, SECOND, None)


def written(tmp_path: Path, adapter: str, model: str = "") -> Path:
    path = tmp_path / "job.yaml"
    path.write_text(f"name: a\ntraining: {{adapter: {adapter}, dataset: org/rows{model}}}\n")
    return path


def test_a_job_file_gets_the_folder_and_its_base_but_a_folder_of_the_name_wins(completed, tmp_path):
    artifact = completed(FIRST)

    training = load_job(written(tmp_path, "by-hand")).training
    assert (training.adapter, training.model) == (str(artifact), "org/base")

    own = shutil.copytree(artifact, tmp_path / "by-hand")
    assert load_job(written(tmp_path, "by-hand")).training.adapter == str(own)


def test_each_of_several_adapters_may_be_a_job(completed, tmp_path):
    artifact = completed(FIRST)
    named = "[aaaa, ./own, org/hub, nowhere]"

    job = load_job(written(tmp_path, named, ", model: org/base"))

    assert job.training.adapters == [str(artifact), str(tmp_path / "own"), "org/hub", "nowhere"]
    away = {"training.adapter[1]": str(tmp_path / "own"), "training.adapter[3]": "nowhere"}
    assert dict(preflight.not_here(job)) == away
    assert load_job(written(tmp_path, "[aaaa, org/hub]")).training.model == "org/base"
    assert load_job(written(tmp_path, "[aaaa]")).training.adapter == str(artifact)
    for wrong, message in {
        "[]": "names no adapter",
        "[org/a, org/a]": "'org/a' is there twice",
        "[org/a, 5]": r".1 = 5: must be a valid string",
    }.items():
        with pytest.raises(ConfigError, match=f"adapter.*{message}"):
            load_job(written(tmp_path, wrong, ", model: org/base"))


def gone(folder: Path) -> None:
    shutil.rmtree(folder)


def damaged(folder: Path) -> None:
    (folder / "adapter_model.safetensors").write_bytes(b"x" * 36)


def replaced(folder: Path) -> None:
    damaged(folder)
    write_manifest(folder)


@pytest.mark.parametrize(
    ("befell", "message"),
    [
        (gone, "the artifact of job 0000aaaa is no longer at /"),
        (damaged, r"the artifact of job 0000aaaa is damaged: .*adapter_model\.safetensors"),
        (replaced, "holds another artifact than that of job 0000aaaa by now"),
    ],
)
def test_an_artifact_is_taken_as_the_job_left_it_or_not_at_all(completed, befell, message):
    befell(completed(FIRST))

    with pytest.raises(ConfigError, match=rf"^training\.adapter = '1a2b': .*{message}"):
        adapter_of("1a2b")


def test_what_names_no_adapter_of_one_completed_job_is_refused(completed):
    completed(FIRST, settings="config.json")
    completed(SECOND)
    running = RunFolder("cccc0000-0000-4000-8000-00000000dddd")

    for text, message in {
        "aaaa": r"the artifact of job 0000aaaa, /.*, is a model and no adapter",
        "1a2b": f"begins or ends the ids of 2 jobs: {FIRST}, {SECOND}",
        str(running.run_id): "job 0000dddd is not completed, so it has no artifact",
        "aaa": "there is neither such a folder nor such a job on this computer",
    }.items():
        with pytest.raises(ConfigError, match=rf"^training\.adapter = '{text}': {message}") as told:
            adapter_of(text)
        assert told.value.suggestion


def test_it_is_refused_where_the_job_runs_and_left_to_a_worker(tmp_path):
    job = load_job(written(tmp_path, "nowhere", ", model: org/base"))

    here = preflight.seen_from_here(job)
    found = {r.name: r.error for r in walk(preflight.PREFLIGHT, preflight.subject_of(job), here)}
    assert "training.adapter = 'nowhere': there is neither" in str(found["earlier"])
    assert "adapter" not in found  # it would say that it is on the Hub

    subject = preflight.subject_of(job, for_worker=True)
    assert subject.away["training.adapter"] == "nowhere"
    left = walk(preflight.JOB, subject, {Needs.ROWS})
    assert [result.name for result in left] == []
    with pytest.raises(ConfigError, match=r"training\.adapter = 'nowhere'"):  # not of the model
        load_job(written(tmp_path, "nowhere"))


async def test_a_worker_without_the_job_refuses_before_anything_is_hired(tmp_path, monkeypatch):
    job = load_job(written(tmp_path, "nowhere", ", model: org/base"))
    monkeypatch.setenv("PREFECT__FLOW_RUN_ID", str(uuid4()))

    with pytest.raises(ConfigError, match=r"training\.adapter = 'nowhere': there is neither"):
        await place.fn(on_this_computer(job))


def test_a_run_that_is_resumed_goes_on_with_the_same_job(completed, tmp_path):
    job = load_job(written(tmp_path, "by-hand", ", model: org/base"))  # no such job here so far
    first, run = completed(FIRST, at=1), RunFolder(str(uuid4()))
    assert _resolved(job, run).training.adapter == str(first)

    second = completed(SECOND, at=2)

    assert _resolved(job, run).training.adapter == str(first)
    assert _resolved(job, RunFolder(str(uuid4()))).training.adapter == str(second)


@pytest.mark.parametrize("known", [True, False])
def test_the_trainer_learns_which_job_it_goes_on_with(completed, tmp_path, known):
    artifact = completed(FIRST)
    named = artifact if known else shutil.copytree(artifact, tmp_path / "copy")
    job = load_job(written(tmp_path, str(named)))
    machine = Instance(provider="runpod", id="pod", mark=None, status=InstanceStatus.RUNNING)
    away = SimpleNamespace(is_home=False, notice_command="")
    training = RemoteTraining(job, machine, away, RunFolder(uuid4()), python="python3")

    assert training.job_file(job.training)["continues"] == (FIRST if known else None)
