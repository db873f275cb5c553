"""The artifacts of jobs that were completed on this computer, by what people call these jobs.

`training.adapter` may name one, and a job of a batch the others by `${NAME.output}`: whoever reads or
checks a job here puts the folder of the artifact in its place, so that the trainer only ever sees a folder.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from blocks.home import runs
from flows.run_folder import RunFolder, run_folders
from flows.shown import LEAST, is_part, short_id
from trainer.config.adapter_files import FIELD, is_adapter
from trainer.config.model_files import looks_like_path
from trainer.contract.errors import ConfigError, IntegrityError
from trainer.contract.files import read_json
from trainer.contract.manifest import verify


def may_be_job(adapter: str) -> bool:
    """Whether a name can mean a job: it is no folder, and the Hub's adapters have owners."""
    is_name = not looks_like_path(adapter) and not {"/", ":"} & {*adapter}
    return is_name and not Path(adapter).expanduser().exists()


def adapter_of(text: str) -> Path:
    """Return the verified artifact of a completed job.

    Args:
        text: the job's id, 4 or more characters of its beginning or end, or its name: then it is the
            job of that name that was completed last.

    Raises:
        ConfigError: there is no such job here, several fit, it is not completed, or its artifact is
            gone, damaged or no adapter.
    """
    named = f"{FIELD} = {text!r}"
    folder = artifact_of(text, named)
    if not is_adapter(folder):
        raise ConfigError(
            f"{named}: the artifact of job {short_id(_report(text, named)['run_id'])}, {folder}, is a model and no adapter.",
            "Name the folder as training.model to train it further, or a job with an adapter.",
        )
    return folder


def artifact_of(text: str, named: str) -> Path:
    """Return the verified artifact of a completed job, whatever it is.

    Args:
        text: the job; see `adapter_of`.
        named: the field and its value, for messages.

    Raises:
        ConfigError: there is no such job here, several fit, it is not completed, or its artifact is
            gone or damaged.
    """
    report = _report(text, named)
    job, folder = short_id(report["run_id"]), Path(report["path"])
    if not folder.is_dir():
        raise ConfigError(
            f"{named}: the artifact of job {job} is no longer at {folder}.",
            "Name the folder where it is now, or another job.",
        )
    try:
        files = verify(folder)["files"]
    except IntegrityError as error:
        raise ConfigError(
            f"{named}: the artifact of job {job} is damaged: {error.message}", "Name another job."
        ) from error
    # A job with the same output_dir replaces what an earlier one left there.
    weights = Path(report["file"]).relative_to(folder).as_posix()
    if files.get(weights, {}).get("sha256") != report["sha256"]:
        raise ConfigError(
            f"{named}: {folder} holds another artifact than that of job {job} by now.",
            "Name the job that wrote it last, or the folder.",
        )
    return folder


def job_of(folder: Path) -> str | None:
    """Return the id of the job whose artifact a folder is; None where it is of none of this computer."""
    ids = (r["run_id"] for r in _reports() if Path(r["path"]) == folder.expanduser().absolute())
    return next(ids, None)


def _reports() -> Iterator[dict[str, Any]]:
    """Yield the reports of all completed jobs, the last one first."""
    paths = [path for folder in run_folders() if (path := folder / "report.json").is_file()]
    for path in sorted(paths, key=lambda path: path.stat().st_mtime, reverse=True):
        report = read_json(path)
        if report is not None:
            yield report


def _report(text: str, named: str) -> dict[str, Any]:
    # The name first, as for every command: a user has chosen it.
    if report := next((report for report in _reports() if report["name"] == text), None):
        return report
    found = [path.name for path in run_folders() if is_part(path.name, text)]
    found = found or [path.name for path in run_folders() if _name(path.name) == text][-1:]
    if len(found) > 1:
        raise ConfigError(
            f"{named}: begins or ends the ids of {len(found)} jobs: {', '.join(found[:5])}.",
            f"Give more of it, or the end, such as {short_id(found[0])}.",
        )
    if not found:
        raise ConfigError(
            f"{named}: there is neither such a folder nor such a job on this computer.",
            f"Name a folder, owner/name on the Hub, or a job that was completed here: its name, or {LEAST} or "
            "more characters of its id ('trainctl list').",
        )
    report = read_json(runs() / found[0] / "report.json")
    if report is None:
        raise ConfigError(
            f"{named}: job {short_id(found[0])} is not completed, so it has no artifact.",
            f"Wait for it (trainctl monitor {short_id(found[0])} --follow), or name another.",
        )
    return report


def _name(run_id: str) -> str | None:
    """Return the name of a job that has trained, or trains, on this computer."""
    directory = RunFolder(run_id).job_directory()
    name = (read_json(directory.job) or {}).get("name") if directory else None
    return None if name is None else str(name)
