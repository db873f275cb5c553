"""What a program asks for and gets: jobs and artifacts, with the names of the HTTP interface."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from trainer.contract.job_directory import JobState


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedJob:
    """A job as a program asks for it: `TrainingConfig` to those who import it."""

    job_id: str | None = None
    """What the job is called from then on; None: the service gives it an id."""
    model_name: str | None = None
    """A model of the Hub, or a folder on the computer that trains."""
    dataset_path: str | None = None
    """A file, or a data set of the Hub."""
    output_dir: str | None = None
    """Where the result goes, on the computer that trains."""
    provider: str | list[str] | None = None
    """Where it trains; None: where `start_training` says, or on the worker's own computer."""
    training: Mapping[str, Any] | None = None
    """Further fields of `training` in a job file, such as {"learning_rate": 1e-4}."""
    job: Mapping[str, Any] | None = None
    """A whole job as in a job file, instead of all but `job_id` and `provider`; see 'trainctl init'."""

    def body(self) -> dict[str, Any]:
        """Return it as the service takes it."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadedArtifact:
    """A result that is here, and whole: `ArtifactInfo` to those who import it.

    `await` returns it as it is, so that `await orchestrator.download_artifact(…)` does with both
    orchestrators what it says.
    """

    artifact_id: str
    job_id: str
    path: Path
    """The file with the weights, on this computer."""
    size_bytes: int
    hash_sha256: str
    """64 hexadecimal digits, which the file at `path` was found to have."""
    created_at: datetime | None
    metadata: dict[str, Any]

    def __await__(self) -> Generator[None, None, DownloadedArtifact]:
        return self
        yield  # pragma: no cover - makes this a generator, which `await` wants


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRecord:
    """A job as the service knows it: `TrainingJob` to those who import it."""

    job_id: str
    state: JobState
    config: dict[str, Any] | None = None
    """What was asked for; of `create_job` alone."""
    name: str | None = None
    created_at: datetime | None = None
    provider: str | None = None
    provider_job_id: str | None = None
    artifact_info: dict[str, Any] | None = None
    """Of a completed job: as `download_artifact` has it, the path being one of the service."""
    started_at: datetime | None = None
    completed_at: datetime | None = None
    current_metrics: dict[str, Any] = field(default_factory=dict)
    message: str | None = None
    """Why it is in its state."""
    link: str | None = None
    """Its page in Prefect's UI."""


MOMENTS = ("created_at", "started_at", "completed_at")


def job_of(answer: Mapping[str, Any]) -> JobRecord:
    """Return a job from the service's JSON; fields that this version does not know are passed over."""
    known = {name: answer[name] for name in JobRecord.__dataclass_fields__ if name in answer}
    return JobRecord(
        **{
            **known,
            "state": JobState(answer["state"]),
            **{name: moment_of(answer.get(name)) for name in MOMENTS},
            "current_metrics": dict(answer.get("current_metrics") or {}),
        }
    )


def moment_of(text: str | None) -> datetime | None:
    """Return a moment from ISO 8601."""
    return datetime.fromisoformat(text) if text else None
