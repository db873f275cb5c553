"""Errors as RFC 9457 has them, which are at the same time those of the founding documents.

One body serves both: `type`, `title`, `status`, `detail` and `instance` of the RFC, and `error` (the
title again), `detail` and `job_id`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.requests import HTTPConnection
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from gateway.access.refusals import Forbidden, SignInAway, TooManyRequests, Unauthenticated
from gateway.database.engine import DatabaseUnreachable
from gateway.exits import ApiUnreachable, sentence, unexpected
from gateway.operations.creating import Conflict
from gateway.operations.finding import NoSuchJob
from gateway.operations.showing import NoArtifact
from gateway.rest.prefect_link import ERRORS_OF_CLIENT, in_our_words
from trainer.contract.errors import ConfigError, DiskFull, OrchestratorError
from trainer.contract.redaction import redacted

MEDIA_TYPE = "application/problem+json"
MOST_FAULTS = 20


class Problem(BaseModel):
    """Why a request was refused, or failed."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "type": "about:blank",
                    "title": "Not Found",
                    "status": 404,
                    "detail": "There is no job 'my_job_123'. List them: GET /api/training/jobs",
                    "instance": "/api/training/jobs/my_job_123/status",
                    "error": "Not Found",
                    "job_id": "my_job_123",
                }
            ]
        }
    )

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    """What happened, and what to do about it."""
    instance: str
    """The path that was asked for."""
    error: str
    """The title again, under the founding documents' name."""
    job_id: str | None = Field(default=None)


class RequestRefused(Exception):
    """A request that is not answered as it wished, with the status that says why."""

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        job_id: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.job_id = job_id
        self.headers = dict(headers or {})


def problem(
    request: HTTPConnection,
    status: int,
    detail: str,
    *,
    job_id: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """Return the answer that says why; secrets in its text are masked.

    Args:
        request: what was asked for.
        status: of HTTP.
        detail: what happened and what to do about it.
        job_id: whose; None: the one in the path, if there is one.
        headers: to send with it.
    """
    title = HTTPStatus(status).phrase
    body = Problem(
        title=title,
        status=status,
        detail=redacted(detail),
        instance=request.url.path,
        error=title,
        job_id=job_id or request.path_params.get("job_id") or request.path_params.get("train_id"),
    )
    return JSONResponse(
        body.model_dump(), status, headers=dict(headers or {}), media_type=MEDIA_TYPE
    )


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return these statuses for a route's description, each with a problem as its body."""
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        status: {
            "description": HTTPStatus(status).phrase,
            "content": {MEDIA_TYPE: {"schema": schema}},
        }
        for status in statuses
    }


def there_already(kind: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    """Return the answer, for a route's description, to what is asked for again under its key."""
    return {200: {"model": kind, "description": "It was asked for before, under the same key"}}


def handle_problems(app: FastAPI) -> None:
    """Let every error of an application be answered as a problem."""
    app.add_exception_handler(RequestRefused, _refused)
    app.add_exception_handler(OrchestratorError, _ours)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _of_http)
    for kind in ERRORS_OF_CLIENT:
        app.add_exception_handler(kind, _of_prefect)
    app.add_exception_handler(Exception, _unexpected)


def _refused(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestRefused)  # noqa: S101 - for the type checker
    return problem(request, error.status, error.detail, job_id=error.job_id, headers=error.headers)


def _ours(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, OrchestratorError)  # noqa: S101 - for the type checker
    return problem(request, status_of(error), sentence(error), headers=_headers_of(error))


def status_of(error: OrchestratorError) -> int:
    """Return the status of HTTP for an error of ours."""
    match error:
        case NoSuchJob() | NoArtifact():
            return 404
        case Conflict():
            return 409
        case ConfigError():
            return 400
        case Unauthenticated():
            return 401
        case Forbidden():
            return 403
        case TooManyRequests():
            return 429
        case ApiUnreachable() | DatabaseUnreachable() | SignInAway():
            return 503
        case DiskFull():
            return 507
        case _:
            return 500


def _headers_of(error: OrchestratorError) -> dict[str, str]:
    match error:
        case Unauthenticated():
            return {"WWW-Authenticate": 'Bearer realm="Training Orchestrator"'}
        case TooManyRequests():
            return {"Retry-After": str(error.seconds)}
        case _:
            return {}


def _invalid(request: Request, error: Exception) -> JSONResponse:
    """Answer a request whose body, path or query is not as described: every fault in a sentence."""
    assert isinstance(error, RequestValidationError)  # noqa: S101 - for the type checker
    faults = error.errors()
    # Text that is no JSON at all has no fields that could be wrong.
    status = 400 if any(fault["type"] == "json_invalid" for fault in faults) else 422
    return problem(request, status, "; ".join(map(_fault, faults[:MOST_FAULTS])))


def _fault(fault: Mapping[str, Any]) -> str:
    place, *path = fault["loc"]
    where = ".".join(map(str, path)) or str(place)
    given = repr(fault.get("input"))
    shown = "" if fault["type"] in {"missing", "json_invalid"} or len(given) > 60 else f" = {given}"
    return f"{where}{shown} ({place}): {fault['msg']}"


def _of_http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)  # noqa: S101 - for the type checker
    detail = {
        404: f"There is nothing at {request.url.path}. What there is: /docs",
        405: f"{request.url.path} does not take {request.method}. What it takes: /docs",
    }.get(error.status_code, str(error.detail))
    headers = dict(error.headers or {})
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = ", ".join(sorted(_methods_of(request, headers.get("Allow", ""))))
    return problem(request, error.status_code, detail, headers=headers)


def _methods_of(request: Request, known: str) -> set[str]:
    """Return the methods that a path takes: one route has its own, and there may be several."""
    found = {name.strip() for name in known.split(",") if name.strip()}
    for path, operations in request.app.openapi()["paths"].items():
        pattern = "[^/]+".join(map(re.escape, re.split(r"\{[^}]*\}", path)))
        if re.fullmatch(pattern, request.url.path):
            found |= {method.upper() for method in operations}
    return found


def _of_prefect(request: Request, error: Exception) -> JSONResponse:
    return _ours(request, in_our_words(error))


def _unexpected(request: Request, error: Exception) -> JSONResponse:
    return problem(request, 500, unexpected(error))
