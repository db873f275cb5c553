"""The bodies of the documents' answers."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

WHEN = "2026-01-15T10:30:00Z"


class AnswerBody(BaseModel):
    """An answer, whose example is in the description."""

    example: ClassVar[dict[str, Any]] = {}
    model_config = ConfigDict(protected_namespaces=())


class JobSummary(AnswerBody):
    """A job in a list."""

    job_id: str
    name: str
    state: str
    """created, initializing, running, paused, completed, failed or stopped."""
    provider: str
    created_at: str | None = None
    started_at: str | None = None
    completed_at: str | None = None


class Artifact(AnswerBody):
    """The verified result of a job."""

    artifact_id: str
    job_id: str
    path: str
    size_bytes: int | None = None
    hash_sha256: str | None = None
    created_at: str | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)


class JobStatus(JobSummary):
    """Where a job stands."""

    provider_job_id: str | None = None
    """The id that the provider gave the machine; null while there is none yet."""
    current_metrics: dict[str, Any] = Field(default_factory=dict)
    artifact_info: Artifact | None = None
    message: str | None = None
    """Why it is in its state."""
    link: str | None = None
    """Its page in Prefect's UI."""


class JobList(AnswerBody):
    """Some jobs, the newest first."""

    jobs: list[JobSummary]
    total: int
    """How many there are in the whole list."""
    cursor: str | None = None
    """For the next page; null: this is the last one."""


class JobLog(AnswerBody):
    """Lines of a job's log."""

    job_id: str
    logs: list[str]
    next: int
    """After how many lines the next ones come: `?after=`."""


class JobError(AnswerBody):
    """What went wrong, and what to do about it."""

    model_config = ConfigDict(populate_by_name=True)

    error: str
    """The kind of error, such as OutOfMemory."""
    message: str
    suggestion: str | None = None


class JobErrors(AnswerBody):
    """All that went wrong with a job."""

    job_id: str
    errors: list[JobError]
