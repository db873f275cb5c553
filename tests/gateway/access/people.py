from __future__ import annotations

from gateway.access.callers import Caller, Scope, everything


def caller(scope: Scope, **more: str) -> Caller:
    return Caller(name="ada", scopes=everything([scope]), **more)
