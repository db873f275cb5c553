"""The doors through which every route lets callers in.

Until keys exist the service listens on loopback only, where everybody is the user of this computer.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends
from fastapi.requests import HTTPConnection

from gateway.access.callers import Caller, Scope, local_user


def may(scope: Scope) -> Any:
    """Return the dependency of a route for callers with a scope; it gives the `Caller`."""

    async def caller(connection: HTTPConnection) -> Caller:
        del connection
        return local_user()

    caller.__name__ = f"may_{scope}"
    return Depends(caller)


Reader = Annotated[Caller, may("read")]
Submitter = Annotated[Caller, may("submit")]
Administrator = Annotated[Caller, may("admin")]
Reporter = Annotated[Caller, may("report")]
"""Sends what a trainer reports; ask `may_report_for` whose."""
