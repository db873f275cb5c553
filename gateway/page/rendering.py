"""Templates, files and the headers that every answer of the page has."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from fastapi import Request
from fastapi.routing import APIRoute
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.responses import RedirectResponse, Response

from flows.shown import short_id
from gateway.access.refusals import Unauthenticated
from gateway.cli.renting import OFFERS, offer_cells
from gateway.exits import sentence
from gateway.rest.prefect_link import ERRORS_OF_CLIENT, in_our_words
from gateway.rest.problems import RequestRefused, status_of
from gateway.view import duration, number
from trainer.contract.errors import OrchestratorError

HERE = Path(__file__).parent
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""Nothing inline and nothing of another host: a name that slips through as HTML runs nothing."""
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
}
KINDS = {"js": "text/javascript", "css": "text/css"}
FILES = {
    path.name: (path.read_bytes(), KINDS[path.suffix[1:]])
    for path in sorted((HERE / "static").iterdir())
    if path.suffix[1:] in KINDS
}
"""What the page loads, by name: nothing else of the disk can be asked for."""
PAGES = (("/jobs", "Jobs"), ("/new", "New job"), ("/queue", "Queue"), ("/money", "Money"))


def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(HERE / "templates"), autoescape=True, undefined=StrictUndefined
    )
    made.filters |= {
        "number": number,
        "duration": duration,
        "short": short_id,
        "offer_cells": offer_cells,
    }
    made.filters["extract"] = lambda path, values: values[path]
    made.globals |= {"pages": PAGES, "offer_heads": OFFERS}
    return made


TEMPLATES = _environment()


def html(request: Request, template: str, *, status: int = 200, **values: Any) -> Response:
    """Return a page; 304 where the browser has the same already.

    Args:
        request: that is answered.
        template: a file's name.
        status: of HTTP.
        values: what the template shows.
    """
    caller = getattr(request.state, "caller", None)
    session = caller.session_id if caller else None
    # The guards refuse what a session's form sends without it.
    csrf = request.app.state.gate.sessions.form_token(session) if session else ""
    # Nobody is shown a button that would be refused.
    known = {"request": request, "csrf": csrf, "may_submit": bool(caller and caller.may("submit"))}
    text = TEMPLATES.get_template(template).render(**known, **values)
    tag = f'"{hashlib.sha256(text.encode()).hexdigest()[:24]}"'
    headers = {"ETag": tag, "Cache-Control": "private, no-cache", "Vary": "HX-Request"}
    if status == 200 and request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(text, status, headers, media_type="text/html")


class PageRoute(APIRoute):
    """A route of the page: its answers have our headers, and its errors are pages too."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return what answers a request."""
        inner = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                response = await inner(request)
            except Unauthenticated as error:
                response = _stranger(request, sentence(error))
            except OrchestratorError as error:
                response = _mistake(request, status_of(error), sentence(error))
            except RequestRefused as error:
                response = _mistake(request, error.status, error.detail)
            except ERRORS_OF_CLIENT as error:
                response = _mistake(request, 503, sentence(in_our_words(error)))
            response.headers.update(HEADERS)
            return response

        return answer


def _stranger(request: Request, text: str) -> Response:
    """Send a person to the form, and refuse a program."""
    if request.method != "GET" or "text/html" not in request.headers.get("accept", ""):
        return _mistake(request, 401, text)
    then = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    return RedirectResponse(f"/sign-in?{urlencode({'next': then})}", 303)


def _mistake(request: Request, status: int, text: str) -> Response:
    return html(request, "mistake.html", status=status, text=text, title="Not possible")
