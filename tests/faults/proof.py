"""What is proved at the end of every fault's test, and the figures for the table."""

from __future__ import annotations

import re
import time
from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from prefect import get_client
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import LogSort

from flows.reconcile import reconcile_once
from flows.run_folder import RunFolder
from flows.shown import LOGGER
from flows.streaming.log_shipper import shown
from tests.faults.curves import losses
from tests.faults.scene import Scene
from tests.flows.flow_runs import shipped_lines
from trainer.config import TrainingJob
from trainer.contract.checkpoints import all_checkpoints, check
from trainer.contract.errors import IntegrityError
from trainer.contract.job_directory import JobState
from trainer.contract.manifest import verify

WARNING = 30


@dataclass
class Figures:
    """One row of the table; several runs of a test add up."""

    end: str = "no end"
    leaked: int = 0
    lines: int = 0
    """Of the log: lost, doubled or out of order."""
    unverified: int = 0
    detect: float | None = None
    """Seconds from the fault to the first word of it."""
    recover: float | None = None
    """Seconds from the fault to the next training step, or to the end."""


async def prove(
    scene: Scene, run: FlowRun, figures: Figures, expected: JobState, error: str = ""
) -> None:
    """Measure first, then judge: a run ended as it should, and nothing was lost or left.

    Args:
        scene: where it ran.
        run: the run, ended.
        figures: what is found is added to these.
        expected: the job's state.
        error: regular expression for the state's message, such as the class of the error.
    """
    found = await scene.read(run)
    job = TrainingJob.model_validate(found.parameters["job"])
    message = str(found.state.message or "")
    state = await scene.state(run)
    end = f"{state} {message.partition(':')[0]}" if state is JobState.FAILED else str(state)
    leaked = await _leaked(scene)
    wrong_lines = await _wrong_lines(scene, run, job, expected)
    unverified = _unverified(run, job, expected)
    figures.end = end
    figures.leaked += leaked
    figures.lines += len(wrong_lines)
    figures.unverified += len(unverified)
    await _time(scene, run, figures)

    story = await scene.story(run)
    assert state is expected, f"{message}\n{story}"
    assert re.search(error, message), f"{error!r} is not in {message!r}\n{story}"
    assert leaked == 0, story
    assert not wrong_lines, "\n".join([*wrong_lines, story])
    assert unverified == []
    if expected is JobState.COMPLETED:
        assert losses(RunFolder(run.id).metrics) == await scene.curves.of(job.training)
    for cloud in scene.clouds:
        assert cloud.errors == []
        assert cloud.key not in (scene.folder / "flow.log").read_text()


async def _leaked(scene: Scene) -> int:
    """Return how many machines are alive after one reconcile at most."""
    if any(cloud.alive() for cloud in scene.clouds):
        await reconcile_once()
    return sum(len(cloud.alive()) for cloud in scene.clouds)


async def _wrong_lines(
    scene: Scene, run: FlowRun, job: TrainingJob, expected: JobState
) -> list[str]:
    """Return what is amiss between the machine's log, its mirror, and Prefect."""
    log = RunFolder(run.id).log
    mirror = log.read_bytes() if log.exists() else b""
    here = [shown(line) for line in _lines(mirror)]
    wrong = _difference("Prefect", await shipped_lines(run.id), here)
    there = scene.directory(run).log
    if there.exists():
        # A second machine's log begins with a hole where that of the first one was.
        content = there.read_bytes()
        hole = len(content) - len(content.lstrip(b"\0"))
        wrong += _difference(
            "mirror",
            [shown(line) for line in _lines(mirror[hole:])],
            [shown(line) for line in _lines(content[hole:])],
        )
        if not wrong and mirror[hole:] != content[hole:]:
            wrong.append("mirror: other bytes than on the machine")
    if expected is JobState.COMPLETED:
        steps = {match[1] for line in here if (match := re.match(r"step (\d+)/\d+ +loss", line))}
        last = max(await scene.curves.of(job.training))
        wrong += [f"mirror: no step {n}" for n in range(1, last + 1) if str(n) not in steps]
    return wrong


def _lines(content: bytes) -> list[bytes]:
    lines = content.split(b"\n")
    return lines[:-1] if lines[-1] == b"" else lines


def _difference(where: str, have: list[str], want: list[str]) -> list[str]:
    lost, doubled = Counter(want) - Counter(have), Counter(have) - Counter(want)
    wrong = [f"{where} lost: {line}" for line in lost.elements()]
    wrong += [f"{where} doubled: {line}" for line in doubled.elements()]
    return wrong or ([] if have == want else [f"{where}: out of order"])


def _unverified(run: FlowRun, job: TrainingJob, expected: JobState) -> list[str]:
    """Return what is presented as an artifact or checkpoint and is not whole."""
    folder = RunFolder(run.id)
    artifact = folder.artifact(job.name, job.output_dir)
    wrong = []
    if artifact.exists() or expected is JobState.COMPLETED:
        wrong += _refused(verify, artifact)
    for checkpoint in all_checkpoints(folder.checkpoints):
        wrong += _refused(check, checkpoint)
    return wrong


def _refused(judge: object, path: Path) -> list[str]:
    try:
        judge(path)  # type: ignore[operator]
    except IntegrityError as error:
        return [error.message]
    return []


async def _time(scene: Scene, run: FlowRun, figures: Figures) -> None:
    since = scene.injected_at
    if since is None:
        return
    if scene.recovered_at:
        figures.recover = scene.recovered_at - since
    told = [*await _told_to_prefect(scene, run), *_told_here(scene)]
    now = time.time()  # a process whose clock jumped tells of the future
    figures.detect = min((at - since for at in told if since <= at <= now), default=None)


async def _told_to_prefect(scene: Scene, run: FlowRun) -> list[float]:
    """Return when the run's log told of the fault, or of any trouble."""
    times: list[float] = []
    async with get_client() as client:
        for offset in range(0, 100_000, 200):
            page = await client.read_logs(
                LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run.id])),
                limit=200,
                offset=offset,
                sort=LogSort.TIMESTAMP_ASC,
            )
            for log in page:
                trouble = log.name != LOGGER and log.level >= WARNING
                if trouble or (scene.words and re.search(scene.words, log.message)):
                    times.append(log.timestamp.timestamp())
            if len(page) < 200:
                break
    return times


def _told_here(scene: Scene) -> list[float]:
    """Return when our processes told of it: Prefect may have been what was away."""
    midnight = datetime.now().astimezone().replace(hour=0, minute=0, second=0, microsecond=0)
    times = []
    for line in (scene.folder / "flow.log").read_text(errors="replace").splitlines():
        if match := re.match(r"(\d\d):(\d\d):(\d\d\.\d+) \| (\w+) +\| ", line):
            trouble = match[4] in {"WARNING", "ERROR", "CRITICAL"}
            if trouble or (scene.words and re.search(scene.words, line)):
                seconds = int(match[1]) * 3600 + int(match[2]) * 60 + float(match[3])
                times.append(midnight.timestamp() + seconds)
    return times
