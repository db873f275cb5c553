"""The settings of an agent, by the names of document 004."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dotenv import load_dotenv
from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from flows.reporting.platform import is_web
from gateway.operations.creating import JobRequest
from gateway.reading_settings import read_settings
from gateway.rest.settings import ServiceSettings
from trainer.contract.errors import ConfigError


class AgentSettings(BaseSettings):
    """What stands in the environment, or in `.env`; `API_KEY` is a secret, and read as one."""

    model_config = SettingsConfigDict(extra="ignore", frozen=True)

    backend_url: str = ""
    """Who is told of the jobs; empty: nobody."""
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    models_dir: Path | None = None
    """Where a model is looked for first that is named by no whole path."""
    datasets_dir: Path | None = None
    """The same for data."""
    checkpoints_dir: Path | None = None
    """Where links lead to the checkpoints of each job."""
    logs_dir: Path | None = None
    """Where links lead to the log of each job."""
    gpu_memory_fraction: float | None = Field(default=None, gt=0, le=1)
    """Which part of a GPU a job may have; the trainer reads it itself."""
    enable_mixed_precision: bool = True
    """False: jobs that do not say otherwise compute in float32."""
    max_concurrent_jobs: int = Field(default=1, ge=1)
    checkpoint_interval_steps: int | None = Field(default=None, ge=1)
    """`training.save_steps` of jobs that do not say it."""
    metrics_report_interval_steps: int | None = Field(default=None, ge=1)
    """`training.logging_steps` of jobs that do not say it."""

    @field_validator("backend_url")
    @classmethod
    def _is_address(cls, url: str) -> str:
        if url and not is_web(url):
            raise ValueError("it is no http:// or https:// address without a user name")
        return url.rstrip("/")


class AgentService(ServiceSettings):
    """How the HTTP interface is hosted on an agent."""

    agent: AgentSettings

    def filled(self, request: JobRequest) -> JobRequest:
        """Return a request with the agent's settings where it says nothing."""
        return filled(request, self.agent)


def agent_service(env_file: Path, **given: Any) -> AgentService:
    """Return the settings of an agent; what is given outweighs the environment, and that the file.

    Args:
        env_file: with lines NAME=value; it need not be there.
        given: `host` and `port`; None: not given.

    Raises:
        ConfigError: the file cannot be read, or a value is not one that the setting can have.
    """
    try:
        # Into the environment: the worker and its trainings read some of it themselves.
        load_dotenv(env_file, override=False)
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is no text"
        raise ConfigError(
            f"{env_file}: cannot be read: {why}.", "Correct it, or name another by --env-file."
        ) from None
    agent = read_settings(AgentSettings, **given)
    return read_settings(AgentService, agent=agent, host=agent.host, port=agent.port)


def filled(request: JobRequest, agent: AgentSettings) -> JobRequest:
    """Return a request with an agent's settings where it says nothing itself.

    Args:
        request: what a client asks for; a field that cannot be is left to be refused.
        agent: the settings.
    """
    whole = request.job
    training = whole.get("training", {}) if whole is not None else (request.training or {})
    if not isinstance(training, dict):
        return request
    wanted = {
        "save_steps": agent.checkpoint_interval_steps,
        "logging_steps": agent.metrics_report_interval_steps,
        "dtype": None if agent.enable_mixed_precision else "float32",
    }
    # Another trainer has its own ways to be told, and refuses what is not one of them.
    is_ours = training.get("trainer", "builtin") == "builtin"
    given = {name: v for name, v in wanted.items() if v is not None} if is_ours else {}
    training = given | training
    if "model" in training:
        training["model"] = _found(training["model"], agent.models_dir)
    dataset = training.get("dataset")
    if isinstance(dataset, dict) and "path" in dataset:
        found = _found(dataset["path"], agent.datasets_dir)
        training["dataset"] = {**dataset, "path": found}
    if whole is not None:
        return request.model_copy(update={"job": {**whole, "training": training}})
    return request.model_copy(
        update={
            "training": training or None,
            "model_name": _found(request.model_name, agent.models_dir),
            "dataset_path": _found(request.dataset_path, agent.datasets_dir),
        }
    )


def _found(name: Any, folder: Path | None) -> Any:
    """Return the path of a file or folder that is in a folder of ours; else the name as it is."""
    if folder is None or not isinstance(name, str) or not name:
        return name
    path = folder.expanduser().absolute() / name
    # Not what lies outside of it: such a name is the client's own affair.
    return str(path) if ".." not in Path(name).parts and path.exists() else name
