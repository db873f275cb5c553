"""What stands before all routes: whose page asks, how large a body is, and the audit log behind them."""

from __future__ import annotations

import logging
from http import HTTPStatus
from urllib.parse import urlsplit

from fastapi import FastAPI
from fastapi.requests import HTTPConnection
from sqlalchemy.exc import SQLAlchemyError
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.access import audit
from gateway.access.callers import Caller
from gateway.access.gate import Gate
from gateway.rest.guards import SAFE_METHODS
from gateway.rest.presenting import COOKIE, OUR_NAMES, address_of, host_of
from gateway.rest.problems import problem

NOTHING_DONE = {400, 401, 404, 405, 413, 422, 429}
"""Answers to what was not even tried."""
LOOKED = "only_looked"
log = logging.getLogger(__name__)


def keep_gate(app: FastAPI) -> None:
    """Put the gatekeeper before an application."""
    app.add_middleware(Gatekeeper)


class Gatekeeper:
    """ASGI middleware. It refuses before a route is looked for, and notes what the routes did."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what may pass."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        scope.setdefault("state", {})  # which routes add to
        connection = HTTPConnection(scope)
        gate: Gate = scope["app"].state.gate
        if why := await _foreign(connection, gate):
            await _refuse(connection, receive, send, 403, why)
            return
        most = gate.settings.most_body_bytes
        if _declared(connection) > most:
            await _refuse(connection, receive, send, 413, _too_large(most))
            return
        await self._app(scope, _limited(receive, most), _noted(connection, gate, send))


async def _foreign(connection: HTTPConnection, gate: Gate) -> str:
    """Return why a request seems to come from a page of somebody else's; empty if it does not."""
    host = connection.headers.get("host", "")
    # Until there are keys, whoever is at this computer is let in: so its name matters.
    if host_of(connection) not in OUR_NAMES and await gate.is_open():
        return (
            f"The service was asked as {host!r}. Until it has keys it answers to localhost and "
            "127.0.0.1 only. Make a key: trainctl keys create NAME"
        )
    is_socket = connection.scope["type"] == "websocket"
    if not is_socket and connection.scope["method"] in SAFE_METHODS:
        return ""
    origin = connection.headers.get("origin")
    if origin is None:
        site = connection.headers.get("sec-fetch-site", "none")
        foreign = site not in {"none", "same-origin"}
    else:
        # By host and port alone: a proxy may speak TLS to the browser, and none to us.
        foreign = origin != gate.settings.public_url and (
            not host or urlsplit(origin).netloc != host
        )
    return "A page of another site may not send this." if foreign else ""


def _declared(connection: HTTPConnection) -> int:
    length = connection.headers.get("content-length", "0")
    return int(length) if length.isdecimal() else 0


def _limited(receive: Receive, most: int) -> Receive:
    """Return what reads a body and stops at too large a one, whatever its header said."""
    read = 0

    async def limited() -> Message:
        nonlocal read
        message = await receive()
        if message["type"] == "http.request":
            read += len(message.get("body", b""))
            if read > most:
                raise HTTPException(413, _too_large(most))
        return message

    return limited


def _too_large(most: int) -> str:
    return f"The body is larger than {most} bytes. Send it in parts."


def _noted(connection: HTTPConnection, gate: Gate, send: Send) -> Send:
    """Return what sends an answer, with the session's new cookie, after it is in the audit log."""

    async def noted(message: Message) -> None:
        if message["type"] in {"http.response.start", "websocket.accept"}:
            if cookie := connection.scope["state"].get("cookie"):
                headers = MutableHeaders(scope=message)
                headers.append("set-cookie", set_cookie(cookie, connection, gate))
            if message["type"] == "http.response.start":
                await _note(connection, gate, message["status"])
        await send(message)

    return noted


async def _note(connection: HTTPConnection, gate: Gate, status: int) -> None:
    """Write down who did what, or may not do it."""
    state = connection.scope["state"]
    caller: Caller | None = state.get("caller")
    # Routes that ask nobody who they are note by themselves what matters.
    if caller is None or not _is_notable(connection.scope["method"], status, state["guard"]):
        return
    if state.get(LOOKED) and status != HTTPStatus.FORBIDDEN:
        return
    route = connection.scope.get("route")
    path = getattr(route, "path", connection.url.path)
    deed = audit.Deed(
        who=caller.name,
        key_id=caller.key_id,
        project=caller.project,
        address=address_of(connection, gate.settings),
        action=f"{connection.scope['method']} {path}",
        job=state.get("job"),
        outcome=str(status),
    )
    try:
        await audit.note(gate.engine, deed)
    except SQLAlchemyError:
        # What was done is done, and the caller is told so.
        log.exception("The audit log takes nothing: %s", deed)


def _is_notable(method: str, status: int, guard: str) -> bool:
    """Whether the audit log holds it: what was changed, and what somebody known may not do.

    What was merely read is not in it, nor what trainers report all the time.
    """
    if status == HTTPStatus.FORBIDDEN:
        return True
    return method not in SAFE_METHODS and guard != "report" and status not in NOTHING_DONE


def only_looked(connection: HTTPConnection) -> None:
    """Say that a request changes nothing, though its method might."""
    connection.scope["state"][LOOKED] = True


def set_cookie(value: str, connection: HTTPConnection, gate: Gate) -> str:
    """Return the header that gives a browser its session; an empty value takes it away."""
    most = int(gate.settings.session_hours * 3600) if value else 0
    # Not Strict: whoever follows a link to a job from a mail is signed in there.
    made = f"{COOKIE}={value}; Path=/; HttpOnly; SameSite=Lax; Max-Age={most}"
    return f"{made}; Secure" if is_secure(connection, gate) else made


def is_secure(connection: HTTPConnection, gate: Gate) -> bool:
    """Whether browsers speak TLS with the service, or with the proxy before it."""
    return gate.settings.public_url.startswith("https:") or connection.url.scheme == "https"


async def _refuse(
    connection: HTTPConnection, receive: Receive, send: Send, status: int, why: str
) -> None:
    if connection.scope["type"] == "websocket":
        await receive()  # its request to connect
    await problem(connection, status, why)(connection.scope, receive, send)
