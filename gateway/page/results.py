"""What a job has left on this computer: checkpoints, machines, the artifact, rows as the model saw them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from blocks.home import runs
from flows.renting.journal import Journal
from flows.run_folder import RunFolder
from flows.saved import stored_steps
from flows.trainer_process import ask_trainer
from gateway import jobs
from gateway.operations.showing import NoArtifact
from gateway.prefect.client import JobRun
from trainer.config import FOREIGN_DATA, TrainingJob
from trainer.contract.checkpoints import all_checkpoints, step_of
from trainer.contract.errors import ConfigError, IntegrityError
from trainer.contract.files import read_json
from trainer.contract.manifest import MANIFEST, read_manifest
from trainer.contract.words import size
from trainer.results.model_card import loading

ROWS = 3
"""That are shown at once as the model sees them."""


def _folder(run: JobRun) -> RunFolder | None:
    """Return a job's folder, where it is on this computer; asking for another's would make one."""
    return RunFolder(run.id) if (runs() / str(run.id)).is_dir() else None


def machines(run: JobRun) -> list[dict[str, Any]]:
    """Return the machines that a job had, with their GPUs, also those that are gone."""
    folder = _folder(run)
    if folder is None:
        return []
    journal = Journal.of(folder)
    return [
        {**row, "GPUs": _gpus(hire.machine)}
        for row, hire in zip(journal.table(), journal.hires, strict=True)
    ]


def _gpus(machine: dict[str, Any]) -> str:
    kind, count = machine.get("gpu_type") or "", machine.get("gpu_count") or 0
    ids = ", ".join(map(str, machine.get("gpu_ids") or ()))
    if not count:
        return "none" if machine else ""
    return f"{count} × {kind or 'GPU'}" + (f": {ids}" if ids else "")


def checkpoints(run: JobRun) -> list[dict[str, Any]]:
    """Return a job's checkpoints here and in its store, the newest first: step, place, size in words."""
    folder = _folder(run)
    if folder is None:
        return []
    directory = folder.job_directory()
    places = [folder.checkpoints, *([directory.checkpoints] if directory else [])]
    found: dict[int, dict[str, Any]] = {
        step: {"step": step, "place": "in the store", "size": ""} for step in stored_steps(folder)
    }
    for path in (path for place in places for path in all_checkpoints(place)):
        is_whole = (path / MANIFEST).is_file()
        found[step_of(path)] = {
            "step": step_of(path),
            "place": str(path) if is_whole else f"{path} (not whole)",
            "size": size(sum(file.stat().st_size for file in path.rglob("*") if file.is_file())),
        }
    return [found[step] for step in sorted(found, reverse=True)]


def artifact(run: JobRun) -> dict[str, Any] | None:
    """Return where a job's verified artifact is, its files, and the Python that loads it; None: not here."""
    folder = _folder(run)
    report = read_json(folder.report) if folder else None
    if not report or not report.get("path"):
        return None
    place = Path(str(report["path"]))
    try:
        files = read_manifest(place)["files"]
    except IntegrityError:  # somebody has moved it
        return None
    job = jobs.job_of(run)
    sees = bool((report.get("training") or {}).get("sees"))
    is_ours = job.training.trainer not in FOREIGN_DATA
    python = "\n".join(loading(job.training, str(place), sees=sees)) if is_ours else ""
    rows = [{"name": n, "size": size(f["bytes"]), "sha256": f["sha256"]} for n, f in files.items()]
    return {"path": str(place), "files": rows, "python": python}


def artifact_file(run: JobRun, name: str) -> Path:
    """Return a file of a job's artifact.

    Raises:
        NoArtifact: there is none of this name.
    """
    found = artifact(run)
    # By the manifest, whose names lead to nowhere outside the folder.
    if found is None or name not in {MANIFEST, *(file["name"] for file in found["files"])}:
        raise NoArtifact(f"The artifact of this job has no file {name!r} here.", "See its page.")
    return Path(found["path"]) / name


def rows_as_seen(run: JobRun, first: int) -> list[dict[str, Any]]:
    """Return rows of a job's data as the model sees them; see `trainer.data.picture.Picture`.

    Args:
        run: the job's.
        first: of which row on, from 1.

    Raises:
        OrchestratorError: the data is not on this computer, or the trainer's packages are not.
    """
    job: TrainingJob = jobs.job_of(run)
    if job.training.trainer != "builtin":
        raise ConfigError(
            f"training.trainer: only {job.training.trainer} knows what it makes of the rows.",
            "Look at what it prints.",
        )
    found: list[dict[str, Any]] = ask_trainer("preview", job, str(first), str(ROWS))["rows"]
    return found
