"""The routes of access: signing in and out, tickets, and who one is.

The page that shows the form is the page's; the form goes to POST /sign-in.
"""

from __future__ import annotations

from typing import Annotated
from urllib.parse import parse_qs, urlencode

from fastapi import APIRouter, Cookie, Query, Request
from fastapi.responses import RedirectResponse
from pydantic import BaseModel, ConfigDict, Field

from flows.shown import job_state
from gateway.access import audit
from gateway.access.gate import Gate
from gateway.access.oidc import CALLBACK, SECONDS, OpenIdProvider
from gateway.access.refusals import Forbidden, Unauthenticated
from gateway.access.signing import job_token
from gateway.access.tickets import SECONDS as TICKET_SECONDS
from gateway.access.tickets import make_ticket
from gateway.access.users import User, user_from_elsewhere
from gateway.operations.finding import find_job
from gateway.rest.gatekeeper import is_secure, set_cookie
from gateway.rest.guards import Reader, Reporter, refuse_others
from gateway.rest.prefect_link import Prefect
from gateway.rest.presenting import address_of
from gateway.rest.problems import RequestRefused, responses
from trainer.contract.job_directory import JobState

router = APIRouter(tags=["access"])
SIGN_IN = "/sign-in"
BEGUN = "to_oidc"
"""The cookie of somebody who is at the OpenID provider just now."""


class Ticket(BaseModel):
    """Lets a WebSocket in: `?ticket=…`."""

    ticket: str
    expires_in: float
    """Seconds; it counts once."""


class JobTokenRequest(BaseModel):
    """Whose token."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"job_id": "my_job_123"}]})

    job_id: str = Field(min_length=1, max_length=100)


class JobToken(BaseModel):
    """By which a job's training reports, until the job is over."""

    job_id: str
    token: str


class Me(BaseModel):
    """Who asks."""

    name: str
    scopes: list[str]
    project: str | None
    """The only project whose jobs are seen; null: all."""


@router.post("/api/access/tickets", status_code=201, responses=responses(401, 403, 429))
async def ticket(request: Request, caller: Reader) -> Ticket:
    """Return a ticket for one WebSocket: what stands in an address is logged by proxies."""
    gate: Gate = request.app.state.gate
    return Ticket(ticket=await make_ticket(gate.engine, caller), expires_in=TICKET_SECONDS)


@router.post(
    "/api/access/job-tokens", status_code=201, responses=responses(401, 403, 404, 409, 429)
)
async def token_of_job(
    request: Request, prefect: Prefect, caller: Reporter, body: JobTokenRequest
) -> JobToken:
    """Return the token of a job: it may report for that one and do nothing else.

    Whoever may report for all jobs may hand each its own; workers do, for trainers of other programs.
    """
    gate: Gate = request.app.state.gate
    await refuse_others(request, caller, body.job_id)
    run = await find_job(prefect, caller, body.job_id)
    if job_state(run).at_rest and job_state(run) is not JobState.PAUSED:
        raise RequestRefused(409, f"Job {body.job_id!r} is {job_state(run)}.", job_id=body.job_id)
    return JobToken(job_id=body.job_id, token=job_token(gate.key, run.id))


@router.get("/api/access/me", responses=responses(401, 403, 429))
async def me(caller: Reader) -> Me:
    """Return whose key or session was sent, and what it may do."""
    return Me(name=caller.name, scopes=sorted(caller.scopes), project=caller.project)


@router.post(SIGN_IN, include_in_schema=False)
async def sign_in(request: Request) -> RedirectResponse:
    """Sign somebody in by the form's `name` and `password`, and go to its `next`."""
    gate: Gate = request.app.state.gate
    form = parse_qs((await request.body()).decode("utf-8", "replace"))
    name, password, then = (form.get(field, [""])[0] for field in ("name", "password", "next"))
    address = address_of(request, gate.settings)
    gate.refuse_hasty(address)
    user = await gate.passwords.user(name, password)
    outcome = "wrong" if user is None else "signed in"
    # Not the name of nobody: somebody may have typed the password there.
    who = user.name if user else ""
    deed = audit.Deed(who=who, action="sign in", address=address, outcome=outcome)
    await audit.note(gate.engine, deed)
    if user is None:
        gate.note_wrong(address)
        query = {"failed": "1"} | ({"next": then} if then else {})
        return RedirectResponse(f"{SIGN_IN}?{urlencode(query)}", 303)
    return await _signed_in(request, user, then)


@router.post("/sign-out", include_in_schema=False)
async def sign_out(request: Request, caller: Reader) -> RedirectResponse:
    """End the session, here and on the server."""
    gate: Gate = request.app.state.gate
    if caller.session_id:
        await gate.sessions.end(caller.session_id)
    request.state.cookie = None
    return _with_cookie(request, RedirectResponse(SIGN_IN, 303), "")


@router.get("/sign-in/oidc", include_in_schema=False)
async def begin_elsewhere(request: Request, next: str = "/") -> RedirectResponse:
    """Go to the OpenID provider."""
    url, cookie = await _provider(request).begin(_path(next))
    answer = RedirectResponse(url, 303)
    secure = is_secure(request, request.app.state.gate)
    answer.set_cookie(
        BEGUN, cookie, SECONDS, path=CALLBACK, secure=secure, httponly=True, samesite="lax"
    )
    return answer


@router.get(CALLBACK, include_in_schema=False)
async def finish_elsewhere(
    request: Request,
    code: Annotated[str, Query()] = "",
    state: Annotated[str, Query()] = "",
    begun: Annotated[str, Cookie(alias=BEGUN)] = "",
) -> RedirectResponse:
    """Come back from the OpenID provider, signed in."""
    gate: Gate = request.app.state.gate
    address = address_of(request, gate.settings)
    gate.refuse_hasty(address)
    try:
        name, then = await _provider(request).finish(code, state, begun)
    except Unauthenticated:
        gate.note_wrong(address)
        raise
    user = await user_from_elsewhere(gate.engine, name, gate.settings.new_user_scopes)
    outcome = "no user here" if user is None else "signed in"
    await audit.note(
        gate.engine, audit.Deed(who=name, action="sign in", address=address, outcome=outcome)
    )
    if user is None:
        raise Forbidden(
            f"{name!r} is no user here.",
            "An administrator adds them: trainctl users add NAME --no-password.",
        )
    answer = await _signed_in(request, user, then)
    answer.delete_cookie(BEGUN, path=CALLBACK)
    return answer


def _provider(request: Request) -> OpenIdProvider:
    gate: Gate = request.app.state.gate
    if not gate.settings.oidc_issuer:
        raise RequestRefused(404, "People do not sign in at an OpenID provider here.")
    return OpenIdProvider(gate.settings, gate.key)


async def _signed_in(request: Request, user: User, then: str) -> RedirectResponse:
    gate: Gate = request.app.state.gate
    cookie = await gate.sessions.begin(user)
    return _with_cookie(request, RedirectResponse(_path(then), 303), cookie)


def _with_cookie(request: Request, answer: RedirectResponse, cookie: str) -> RedirectResponse:
    answer.headers.append("set-cookie", set_cookie(cookie, request, request.app.state.gate))
    return answer


def _path(then: str) -> str:
    """Return a path of ours to go to, and nobody else's address."""
    # Browsers take //HOST and /\\HOST for another host.
    is_ours = then.startswith("/") and not then.startswith(("//", "/\\")) and then.isprintable()
    return then if is_ours else "/"
