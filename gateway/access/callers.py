"""Who asks, what it may do, and whose jobs it may see."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from flows.scheduling.labels import PROJECT, text, user_name
from trainer.contract.errors import ConfigError

Scope = Literal["read", "submit", "admin", "report"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
INCLUDED: Mapping[Scope, frozenset[Scope]] = {
    "report": frozenset({"report"}),
    "read": frozenset({"read"}),
    "submit": frozenset({"submit", "read", "report"}),
    "admin": frozenset(SCOPES),
}
"""What a scope permits: `read` looks, `submit` makes and controls jobs too, `admin` everything;
`report` only sends what a trainer reports: metrics, alerts, log lines and its status."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who asks, as every route gets it."""

    name: str
    """The user's, or the key's."""
    scopes: frozenset[Scope]
    """All that it may do; what a scope includes is among them."""
    project: str | None = None
    """The only project whose jobs it sees; None: those of all."""
    key_id: str | None = None
    """Of an API key; None: it came another way."""
    session_id: str | None = None
    """Of a person who signed in on the page."""
    job_id: str | None = None
    """The only job that it may report for: it came with that job's token."""

    def may(self, scope: Scope) -> bool:
        """Whether it has a scope."""
        return scope in self.scopes

    def sees(self, labels: Mapping[str, Any]) -> bool:
        """Whether a run with these labels of Prefect is one that it may see, and so control."""
        return self.project is None or text(labels, PROJECT) == self.project

    def may_report_for(self, job_id: str) -> bool:
        """Whether it may send metrics, alerts, log lines and the status of a job."""
        return self.may("report") and self.job_id in {None, job_id}


def everything(scopes: Collection[Scope]) -> frozenset[Scope]:
    """Return scopes with all that they include."""
    return frozenset().union(*(INCLUDED[scope] for scope in scopes))


def local_user() -> Caller:
    """Return the user of this computer, who may do everything until keys or users exist."""
    return Caller(name=user_name(), scopes=everything(["admin"]))


def scopes_of(given: str) -> frozenset[Scope]:
    """Return the scopes that a text names, with commas between them.

    Raises:
        ConfigError: it names none, or one that there is not.
    """
    names = {name.strip() for name in given.split(",") if name.strip()}
    if not names or not names <= set(SCOPES):
        raise ConfigError(f"scopes = {given!r}.", f"Name one or more of: {', '.join(SCOPES)}.")
    return everything([scope for scope in SCOPES if scope in names])
