"""The training flow on real processes: to its end, and through every kind of interruption."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest
from prefect import get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
)
from prefect.client.schemas.objects import StateType
from prefect.states import Cancelling, Running

from flows import outcome
from flows.execute import create_run, execute
from flows.locks import is_held
from flows.run_folder import RunFolder
from flows.shown import PAUSING, job_state, short_id
from flows.streaming.log_shipper import shown
from tests.clouds.hub import TOKEN, running_hub
from tests.flows.flow_runs import Job, make_job, of_stand_in, shipped_lines
from tests.stand_in import stand_in
from tests.waiting import until
from trainer.config import TrainingJob
from trainer.contract.events import parse_events
from trainer.contract.files import read_json, sha256_of
from trainer.contract.job_directory import JobState
from trainer.contract.manifest import verify
from trainer.contract.metrics import read_metrics
from trainer.contract.words import number, time_taken

pytestmark = [pytest.mark.usefixtures("prefect_api", "warm_trainers"), pytest.mark.slow]


async def state_of(run_id: UUID) -> JobState:
    async with get_client() as client:
        return job_state(await client.read_flow_run(run_id))


def mirrored_lines(job: Job) -> list[str]:
    return [shown(line) for line in (job.mirror / "train.log").read_bytes().splitlines()]


def losses(metrics: Path) -> dict[int, tuple[float | None, float | None]]:
    steps, _ = read_metrics(metrics)
    return {s: (r.get("train_loss"), r.get("eval_loss")) for s, r in steps.items()}


LONG = {"max_steps": 150, "eval_steps": 75, "save_steps": 25}
"""Long enough to be disturbed twice."""


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The metrics of the long job, trained without any flow."""
    folder = tmp_path_factory.mktemp("undisturbed")
    config = make_job(**LONG).training.model_dump(mode="json")
    (folder / "job.json").write_text(json.dumps({"config": config}))
    subprocess.run(
        [sys.executable, "-m", "trainer", str(folder)], check=True, stdout=subprocess.DEVNULL
    )
    return folder / "metrics.jsonl"


@pytest.fixture
def closed_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A Hub where nobody may make a repository."""
    with running_hub() as hub:
        hub.forbidden.append("/api/repos/create")
        for name, value in {"ENDPOINT": hub.url, "TOKEN": TOKEN, "HUB_OFFLINE": "0"}.items():
            monkeypatch.setenv(f"HF_{name}", value)
        yield


async def test_a_job_ends_with_a_verified_artifact_and_nothing_left(home, flow_process, closed_hub):
    run = await create_run(make_job(max_steps=20, push_to_hub="ada/small"))
    job = Job(home, run.id)

    await flow_process(run.id).ended()

    assert await state_of(run.id) is JobState.COMPLETED
    report = read_json(job.mirror / "report.json")
    assert report is not None
    assert report["sha256"] == sha256_of(Path(report["file"]))
    verify(Path(report["path"]))
    assert "NOT uploaded to ada/small" in report["warning"]
    assert f"trainctl push {short_id(run.id)}" in report["warning"]
    assert any(name.startswith("tensorboard/") for name in verify(job.mirror / "reports")["files"])
    assert await shipped_lines(run.id) == mirrored_lines(job)
    first, *saved = parse_events((job.mirror / "events.jsonl").read_bytes().splitlines())
    assert [(event.kind, event.step) for event in saved] == [("saved", 10), ("saved", 20)]
    assert report["first_row"] == first.facts["row"]
    async with get_client() as client:
        found = await client.read_artifacts(
            artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run.id]))
        )
    keys = sorted(str(artifact.key) for artifact in found)
    kinds = ("curve", "machines", "metrics", "progress", "report")
    assert keys == [f"training-{kind}" for kind in kinds]
    told = str(next(artifact.data for artifact in found if artifact.key == "training-report"))
    usage = report["usage"]
    memory = (number(usage["memory_gb"]), number(usage["memory_gb_predicted"]))
    assert f"| peak memory | {memory[0]} GB (predicted {memory[1]} GB) |" in told
    took = (time_taken(usage["seconds"]), time_taken(usage["seconds_predicted"]))
    assert f"| time in training steps | {took[0]} (predicted {took[1]}) |" in told
    assert "| rows | 114 trained on, 6 held out, 0 dropped" in told
    assert "![curves at step 20 of 20](data:image/svg+xml;base64," in told
    assert "| |" not in told
    assert not job.directory.root.exists()
    assert job.is_gone()


async def test_a_killed_flow_attaches_and_loses_no_line(home, flow_process, tmp_path):
    go = tmp_path / "go"
    training = stand_in(tmp_path, "--steps", 200, "--pace", 0.01, "--hold", 150, "--go", go)
    run = await create_run(of_stand_in(training))
    job = Job(home, run.id)
    first = flow_process(run.id)
    trainer_pid = (await job.at_step(12)).trainer_pid

    first.kill()
    second = flow_process(run.id)
    await until(lambda: is_held(RunFolder(run.id).lock))
    await job.at_step(150)
    still = job.status().trainer_pid
    go.touch()
    await second.ended()

    assert still == trainer_pid
    assert await state_of(run.id) is JobState.COMPLETED
    assert await shipped_lines(run.id) == mirrored_lines(job)
    expected = {step: (round(1 / step, 4), None) for step in range(1, 201)}
    assert losses(job.mirror / "metrics.jsonl") == expected
    assert job.is_gone()


@pytest.mark.thorough
async def test_a_cancelled_job_saves_and_leaves_no_process(home, flow_process):
    run = await create_run(make_job(max_steps=2000))
    job = Job(home, run.id)
    flow = flow_process(run.id)
    await job.at_step(12)

    async with get_client() as client:
        await client.set_flow_run_state(run.id, Cancelling())
    await flow.ended()

    assert await state_of(run.id) is JobState.STOPPED
    assert job.status().state is JobState.STOPPED
    verify(job.directory.checkpoints / f"checkpoint-{job.status().step}")
    assert job.is_gone()


@pytest.mark.thorough
@pytest.mark.xdist_group("undisturbed")
async def test_pausing_twice_changes_no_loss(home, flow_process, undisturbed):
    run = await create_run(make_job(**LONG))
    job = Job(home, run.id)

    for step in (10, 70):
        flow = flow_process(run.id)
        await job.at_step(step)
        async with get_client() as client:
            await client.set_flow_run_state(run.id, Running(name=PAUSING), force=True)
        said = await flow.ended()
        assert await state_of(run.id) is JobState.PAUSED, said
        assert job.is_gone()
    await flow_process(run.id).ended()

    assert await state_of(run.id) is JobState.COMPLETED
    assert losses(job.mirror / "metrics.jsonl") == losses(undisturbed)


@pytest.mark.thorough
async def test_two_processes_for_one_run_train_once(home, flow_process):
    run = await create_run(make_job(max_steps=30))
    job = Job(home, run.id)
    first = flow_process(run.id)
    await until(lambda: job.status().trainer_pid)

    second = flow_process(run.id)
    await first.ended()
    said = await second.ended()

    assert "waiting for it" in said
    assert await state_of(run.id) is JobState.COMPLETED
    steps, _ = read_metrics(job.mirror / "metrics.jsonl")
    assert {record["attempt"] for record in steps.values()} == {1}


@pytest.mark.thorough
async def test_a_wrong_job_fails_with_one_sentence(home, flow_process):
    run = await create_run(make_job(optim="adamm"))

    said = await flow_process(run.id).ended()

    async with get_client() as client:
        state = (await client.read_flow_run(run.id)).state
    assert state is not None
    assert str(state.message).startswith("ConfigError: training.optim: adamm is not a valid ")
    assert "Traceback" not in said


FAILING_STEPS = [
    ({"setup": ["echo ready", "false"]}, "DependencyError: "),
    ({"resources": {"disk_gb": 1e9}}, "CapacityError: No disk with 1e+09 GiB free: "),
    ({"output_dir": "/proc/nowhere/out"}, "ConfigError: output_dir = /proc/nowhere/out: "),
]


@pytest.mark.thorough
async def test_a_step_that_fails_ends_the_job_with_one_sentence(home, flow_process):
    jobs = [make_job().model_dump() | changes for changes, _ in FAILING_STEPS]
    runs = [await create_run(TrainingJob.model_validate(job)) for job in jobs]

    said = await flow_process(*(run.id for run in runs)).ended()

    assert "Traceback" not in said
    for run, (_, message) in zip(runs, FAILING_STEPS, strict=True):
        async with get_client() as client:
            ended = await client.read_flow_run(run.id)
        assert job_state(ended) is JobState.FAILED
        assert ended.state is not None
        assert str(ended.state.message).startswith(message)


# Prefect leaves sockets open where a flow runs in the process of the test.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_a_job_cancelled_in_the_moment_of_its_end_does_not_stay_cancelling(
    home, tmp_path, monkeypatch
):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("not an artifact")
    run = await create_run(make_job().model_copy(update={"output_dir": str(tmp_path / "mine")}))
    of_error = outcome.of_error

    def cancelled_meanwhile(run_folder, error):
        with get_client(sync_client=True) as client:
            client.set_flow_run_state(run.id, Cancelling(), force=True)
        return of_error(run_folder, error)

    monkeypatch.setattr(outcome, "of_error", cancelled_meanwhile)

    await execute(run.id)
    gc.collect()  # those sockets, while that is ignored

    async with get_client() as client:
        state = (await client.read_flow_run(run.id)).state
    assert (state.type, state.name) == (StateType.CANCELLED, "Stopped")
