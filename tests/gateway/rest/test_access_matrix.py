"""Every route of the service, asked by everybody who may not: each is refused, with the right status.

Driven by the routes of the application: a new one without a guard fails here.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import httpx
import pytest
from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import iter_route_contexts
from prefect.states import Completed, Scheduled
from sqlalchemy import update

from flows.scheduling.labels import PROJECT
from flows.shown import FLOW
from gateway.access.callers import everything
from gateway.access.keys import create_key, revoke_key
from gateway.access.limits import Buckets
from gateway.access.signing import job_token
from gateway.database.tables import api_keys
from gateway.rest.guards import GUARD, JOB_PARAMETERS
from tests.gateway.rest.conftest import socket_status

PUBLIC = {
    ("GET", "/openapi.json"),
    ("GET", "/docs"),
    ("GET", "/docs/oauth2-redirect"),
    ("GET", "/redoc"),
    ("GET", "/health"),
    ("GET", "/static/{name}"),
    ("GET", "/sign-in"),
    ("POST", "/sign-in"),
    ("GET", "/sign-in/oidc"),
    ("GET", "/sign-in/oidc/callback"),
}
"""The routes that ask nobody who they are."""
STREAMS = {"/api/training/jobs/{job_id}/events"}
"""Whom they let in, this client never hears: it waits for the end of an answer."""
BODIES: dict[str, Any] = {
    "/api/training/local/metrics": {"job_id": "JOB", "metrics": [{"step": 1}]},
    "/api/access/job-tokens": {"job_id": "JOB"},
    "/api/alerts/trigger": {"job_id": "JOB", "type": "job_started"},
}
"""By path: what names a job in its body, given the job's id as JOB."""
SCOPES_BELOW = {"read": ["report"], "submit": ["read", "report"], "admin": ["submit", "read"]}


@dataclass
class Callers:
    """The tokens of everybody who asks, and the jobs that they ask about."""

    jobs: dict[str, str] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)


@dataclass
class Door:
    """A route and a method of it."""

    path: str
    method: str
    scope: str | None

    def of_job(self, job: str) -> str:
        return re.sub(r"\{[^}]*\}", job, self.path)

    @property
    def names_a_job(self) -> bool:
        return any(f"{{{name}" in self.path for name in JOB_PARAMETERS) or self.path in BODIES


def guard_of(dependant: Dependant) -> str | None:
    for one in dependant.dependencies:
        if scope := getattr(one.call, GUARD, None) or guard_of(one):
            return scope
    return None


def doors(app: FastAPI) -> Iterator[Door]:
    for found in iter_route_contexts(app.routes):
        dependant = getattr(found.original_route, "dependant", None)
        guard = guard_of(found.dependant) if dependant is not None else None
        for method in found.methods or {"WEBSOCKET" if dependant is not None else "ANY"}:
            if method != "HEAD":
                yield Door(found.path or "", method, guard)


@pytest.fixture
async def callers(app: FastAPI) -> Callers:
    """Make the jobs and keys; every address may be wrong as often as the matrix is."""
    gate, client = app.state.gate, app.state.prefect
    gate._tries = Buckets(1e6, 1e6)
    made = Callers()
    flow = await client.create_flow_from_name(FLOW)
    for name, project, state in (
        ("ours", "ours", Scheduled()),
        ("theirs", "theirs", Scheduled()),
        ("over", "ours", Completed()),
    ):
        # By hand: Prefect's client takes functions only.
        body = {"flow_id": str(flow), "name": name, "labels": {PROJECT: project}}
        answer = await client._client.post(
            "/flow_runs/", json=body | {"state": {"type": state.type.value, "name": state.name}}
        )
        answer.raise_for_status()
        made.jobs[name] = answer.json()["id"]

    async def key(name: str, *scopes: str, **more: Any) -> str:
        made.keys[name] = await create_key(gate.engine, name, everything(scopes), by="test", **more)
        return made.keys[name].split("_")[1]

    for scope in ("read", "report", "submit", "admin"):
        await key(scope, scope)
    await key("theirs", "admin", project="theirs")
    await revoke_key(gate.engine, await key("revoked", "admin"))
    expired = await key("expired", "admin", seconds=60)
    async with gate.engine.begin() as connection:
        past = update(api_keys).where(api_keys.c.id == expired).values(expires=time.time() - 1)
        await connection.execute(past)
    made.keys["wrong"] = made.keys["admin"][:-4] + "AAAA"
    made.keys["unknown"] = "to_0123456789ab_" + "A" * 43
    made.keys["of another service"] = "Bearer-of-something-else"
    for name, job in made.jobs.items():
        made.keys[f"job {name}"] = job_token(gate.key, job)
    made.keys["forged job"] = job_token(b"another key", made.jobs["ours"])
    return made


def cases(door: Door) -> Iterator[tuple[str, int]]:
    """Yield who asks for our job, and the status that is right."""
    for name in ("", "wrong", "unknown", "of another service", "revoked", "expired", "forged job"):
        yield name, 401
    for scope in SCOPES_BELOW.get(str(door.scope), []):
        yield scope, 403
    yield "job over", 403
    if door.scope != "report":
        yield "job ours", 403
    elif door.names_a_job:
        yield "job theirs", 403
    if door.names_a_job:
        yield "theirs", 404


async def asked(client: httpx.AsyncClient, app: FastAPI, door: Door, job: str, key: str) -> int:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    if door.method == "WEBSOCKET":
        return await socket_status(app, door.of_job(job), headers)
    body = BODIES.get(door.path)
    answer = await client.request(
        door.method, door.of_job(job), headers=headers, json=body and _with_job(body, job)
    )
    return answer.status_code


def _with_job(body: Any, job: str) -> Any:
    return {name: job if value == "JOB" else value for name, value in body.items()}


async def test_every_route_refuses_everybody_who_may_not(
    app: FastAPI, outsider: httpx.AsyncClient, callers: Callers
):
    wrong, tried = [], 0
    for door in doors(app):
        if (door.method, door.path) in PUBLIC:
            continue
        if door.scope is None:
            wrong.append(f"{door.method} {door.path} has no guard: see gateway/rest/guards.py")
            continue
        for name, status in cases(door):
            key = callers.keys[name] if name else ""
            found = await asked(outsider, app, door, callers.jobs["ours"], key)
            tried += 1
            if found != status:
                wrong.append(
                    f"{door.method} {door.path} by {name or 'nobody'}: {found}, not {status}"
                )

    assert wrong == []
    assert tried > 15


async def test_every_route_lets_in_who_may(
    app: FastAPI, outsider: httpx.AsyncClient, callers: Callers
):
    """Else the refusals above would prove nothing."""
    refused = []
    for door in doors(app):
        if (door.method, door.path) in PUBLIC or door.method == "WEBSOCKET":
            continue
        if door.path in STREAMS:
            continue
        found = await asked(outsider, app, door, str(uuid4()), callers.keys["admin"])
        if found in {401, 403, 405, 429}:
            refused.append((door, found))

    assert refused == []


async def test_a_route_without_a_guard_is_found(app: FastAPI):
    @app.get("/open")
    async def forgotten() -> str:
        return "secret"

    assert [door.path for door in doors(app) if door.scope is None and door.path == "/open"]


async def test_every_body_that_names_a_job_is_in_the_matrix(app: FastAPI):
    """A guard sees the path; what a body names, the route has to have checked."""
    missing = [
        route.path
        for route in iter_route_contexts(app.routes)
        if hasattr(route.original_route, "dependant")
        for body in route.dependant.body_params
        if "job_id" in getattr(body.field_info.annotation, "model_fields", {})
        and route.path not in BODIES
        and guard_of(route.dependant) == "report"
    ]

    assert missing == []
