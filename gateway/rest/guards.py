"""The doors through which every route lets callers in.

A route takes a `Reader`, `Submitter`, `Administrator` or `Reporter`, or `Depends` on `may(scope)`. That
finds out who asks, and refuses who may not; it also refuses the path's job to whom it is not theirs.
A route that has the job's id elsewhere, or that lists jobs, asks `refuse_others` or `Caller.sees`.
"""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import parse_qs
from uuid import UUID

from fastapi import Depends, Request
from fastapi.requests import HTTPConnection

from gateway.access.callers import Caller, Scope
from gateway.access.gate import Gate
from gateway.access.refusals import Forbidden
from gateway.access.sessions import Seen
from gateway.operations.finding import NoSuchJob, known_job
from gateway.rest.presenting import presented_by

JOB_PARAMETERS = ("job_id", "train_id")
"""The names that a job's id has in paths."""
SAFE_METHODS = {"GET", "HEAD", "OPTIONS"}
FORM_HEADER, FORM_FIELD = "x-csrf-token", "csrf_token"
GUARD = "guards_for"
"""The attribute by which a dependency is known to be a guard; its value is the scope."""


def may(scope: Scope) -> Any:
    """Return the dependency of a route for callers with a scope; it gives the `Caller`."""

    async def caller(connection: HTTPConnection) -> Caller:
        gate: Gate = connection.app.state.gate
        # Of a service within a program, which nobody else can reach.
        alone: Caller | None = getattr(connection.app.state, "only_caller", None)
        seen = (
            Seen(caller=alone, cookie=None)
            if alone
            else await gate.seen(presented_by(connection, gate.settings))
        )
        found = seen.caller
        # For the middleware, which writes the audit log and sends the cookie.
        state = connection.state
        state.caller, state.cookie, state.guard = found, seen.cookie, scope
        if not found.may(scope):
            raise Forbidden(f"This needs the scope {scope!r}, which {found.name!r} does not have.")
        if found.session_id and connection.scope.get("method", "GET") not in SAFE_METHODS:
            await _refuse_foreign_form(connection, gate, found.session_id)
        for name in JOB_PARAMETERS:
            if name in connection.path_params:
                await refuse_others(connection, found, connection.path_params[name])
        return found

    caller.__name__ = f"may_{scope}"
    setattr(caller, GUARD, scope)
    return Depends(caller)


Reader = Annotated[Caller, may("read")]
Submitter = Annotated[Caller, may("submit")]
Administrator = Annotated[Caller, may("admin")]
Reporter = Annotated[Caller, may("report")]
"""Sends what a trainer reports."""


async def refuse_others(connection: HTTPConnection, caller: Caller, job_id: str) -> None:
    """Refuse a job that is not the caller's.

    Raises:
        Forbidden: it came with the token of another job.
        NoSuchJob: there is no such job, as far as its project goes.
    """
    connection.state.job = str(job_id)
    if caller.project is None and caller.job_id in {None, _canonical(job_id)}:
        return
    run = await known_job(connection.app.state.prefect, str(job_id))
    if caller.job_id is not None and (run is None or str(run.id) != caller.job_id):
        raise Forbidden(f"This is the token of job {caller.job_id}, and not of {job_id!r}.")
    if run is None or not caller.sees(run.labels):
        raise NoSuchJob(f"There is no job {job_id!r}.", "List them: GET /api/training/jobs")


async def _refuse_foreign_form(connection: HTTPConnection, gate: Gate, session_id: str) -> None:
    """Refuse what a page of somebody else's lets a browser send, with the cookie that it has.

    Raises:
        Forbidden: the form was not made for this session.
    """
    given = connection.headers.get(FORM_HEADER, "")
    kind = connection.headers.get("content-type", "").partition(";")[0].strip()
    if (
        not given
        and kind == "application/x-www-form-urlencoded"
        and isinstance(connection, Request)
    ):
        form = parse_qs((await connection.body()).decode("utf-8", "replace"))
        given = form.get(FORM_FIELD, [""])[0]
    if not gate.sessions.is_form_token(session_id, given):
        raise Forbidden("This form was not made for your session.", "Load the page again.")


def _canonical(job_id: object) -> str:
    try:
        return str(UUID(str(job_id)))
    except ValueError:
        return str(job_id)
