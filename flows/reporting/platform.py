"""Where metrics and alerts are reported to: addresses, keys and ids, from the environment.

| variable                           | what it is                                               |
| ---------------------------------- | -------------------------------------------------------- |
| METRICS_API_URL, JOB_TOKEN         | where metrics go; sent as `Authorization: Bearer`        |
| ALERT_API_URL, INTERNAL_API_KEY    | where alerts go; sent as `X-API-Key`                     |
| USER_ID                            | whose job it is; alerts need it                          |
| JOB_ID                             | the platform's id of the job; else the flow run's id     |
| MODEL_NAME                         | the model's name there; else the one in the job file     |
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from blocks.secrets.reading import secret
from trainer.contract.errors import OrchestratorError


@dataclass(frozen=True, slots=True)
class Address:
    """Where a report goes, and the key that allows it."""

    # Neither shows in a repr: tracebacks and test reports print those.
    url: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    method: str = "POST"

    @property
    def shown(self) -> str:
        """The address without its query, which may hold a secret."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}{parts.path}"


@dataclass(frozen=True, slots=True)
class Platform:
    """What this environment knows of a platform."""

    metrics: Address | None
    alerts: Address | None
    job_id: str
    """The platform's id of the job; empty: the flow run's id."""
    user_id: str
    model_name: str
    """What the platform calls the model; empty: as the job file does."""
    problems: tuple[str, ...]
    """Sentences: why something that seems meant is not reported."""

    @classmethod
    def of_environment(cls) -> Platform:
        """Return what the environment says; what cannot be used is off, and `problems` says why.

        It may block: a key may be kept in a vault.
        """
        problems: list[str] = []
        metrics = _address(
            "METRICS_API_URL", "JOB_TOKEN", ("Authorization", "Bearer "), "metrics", problems
        )
        alerts = _address(
            "ALERT_API_URL", "INTERNAL_API_KEY", ("X-API-Key", ""), "alerts", problems
        )
        if alerts and not _value("USER_ID"):
            alerts = None
            problems.append(
                "ALERT_API_URL is set and USER_ID is not: no alerts are reported. Set USER_ID."
            )
        return cls(
            metrics,
            alerts,
            job_id=_value("JOB_ID"),
            user_id=_value("USER_ID"),
            model_name=_value("MODEL_NAME"),
            problems=tuple(problems),
        )

    def is_of(self, job_id: str) -> bool:
        """Whether our keys can be for this job: each job of a platform may have its own."""
        return self.job_id in {"", job_id}


def _address(
    variable: str, key_variable: str, header: tuple[str, str], what: str, problems: list[str]
) -> Address | None:
    """Return an address; None when it is not set, or cannot be used.

    Values are not quoted: a key may have been pasted into the wrong variable.
    """
    url, problem = _value(variable), ""
    if not url:
        return None
    try:
        key = secret(key_variable)
    except OrchestratorError as error:
        problems.append(f"{error.message.rstrip('.')}: no {what} are reported. {error.suggestion}")
        return None
    if not is_web(url):
        problem = (
            f"{variable} is not an http:// or https:// address without a user name and password: "
            f"no {what} are reported. Correct it, or unset it."
        )
    elif not key:
        problem = (
            f"{variable} is set and {key_variable} is not: no {what} are reported. "
            f"Set {key_variable}, or unset {variable}."
        )
    elif not (key.isascii() and key.isprintable()):
        problem = (
            f"{key_variable} has characters that an HTTP header cannot carry: no {what} are "
            "reported. Copy it again."
        )
    if problem:
        problems.append(problem)
        return None
    name, prefix = header
    return Address(url, {name: prefix + key})


def is_web(url: str) -> bool:
    """Whether a text is an address that reports can go to, with no password in it."""
    try:
        parts = urlsplit(url)
        _ = parts.port  # parsed only when it is read; a wrong one raises then
    except ValueError:
        return False
    # A password in the address would be shown in every warning about it, and a space or a control
    # character means that more was pasted than an address.
    return (
        parts.scheme in {"http", "https"}
        and bool(parts.hostname)
        and "@" not in parts.netloc
        and url.isprintable()
        and " " not in url
    )


def _value(variable: str) -> str:
    return os.environ.get(variable, "").strip()
