"""Who may do what: the doors through which every route lets callers in.

Until keys exist the service listens on loopback only, where everybody is the user of this computer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import Depends
from fastapi.requests import HTTPConnection

from flows.scheduling.labels import user_name

Scope = Literal["read", "submit", "admin"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who asks."""

    user: str
    project: str | None = None
    """The only project whose jobs it may see; None: any."""


def may(scope: Scope) -> Any:
    """Return the dependency of a route for callers with a scope; it gives the `Caller`."""

    async def caller(connection: HTTPConnection) -> Caller:
        del connection
        return Caller(user=user_name())

    caller.__name__ = f"may_{scope}"
    return Depends(caller)


Reader = Annotated[Caller, may("read")]
Submitter = Annotated[Caller, may("submit")]
Administrator = Annotated[Caller, may("admin")]
