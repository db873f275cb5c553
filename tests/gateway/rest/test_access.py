"""Who is let in, from where, by what; and what is refused before a route is looked for."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI, Request, WebSocket
from starlette.exceptions import HTTPException

from gateway.access import users
from gateway.access.audit import Deed, deeds
from gateway.access.callers import everything
from gateway.access.gate import TRIES_AT_ONCE, Gate
from gateway.access.keys import create_key
from gateway.access.limits import Buckets
from gateway.access.settings import AccessSettings
from gateway.access.users import add_user
from gateway.reading_settings import read_settings
from gateway.rest.gatekeeper import _limited
from gateway.rest.guards import Reporter, Submitter
from gateway.rest.presenting import COOKIE
from tests.gateway.rest.conftest import client_of, gate_alone, socket_status
from trainer.contract.errors import ConfigError

ME = "/api/access/me"
GOOD, BAD = "correct horse battery", "wrong horse battery"


@pytest.fixture
async def app() -> AsyncIterator[FastAPI]:
    async with gate_alone() as made:
        yield made


@pytest.fixture(autouse=True)
def quick_hasher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(users, "_hasher", users.PasswordHasher(1, 8, 1))
    users._nobodys.cache_clear()


@pytest.fixture
async def key(app: FastAPI) -> str:
    return await create_key(app.state.database, "ci", everything(["submit"]), by="test")


@pytest.fixture
async def ada(app: FastAPI) -> None:
    await add_user(app.state.database, "ada", ["submit"], password=GOOD)


def with_settings(app: FastAPI, **given: str) -> None:
    gate: Gate = app.state.gate
    settings = read_settings(AccessSettings, **given)
    app.state.gate = Gate(gate.engine, gate.key, settings, gate._is_unfinished)


async def log_of(app: FastAPI) -> list[Deed]:
    return [deed async for deed in deeds(app.state.database, 100)]


async def test_without_a_key_only_this_computer_is_let_in(service, outsider, app):
    assert (await service.get(ME)).json()["scopes"] == ["admin", "read", "report", "submit"]
    refused = await outsider.get(ME, headers={"host": "127.0.0.1:8000"})
    assert refused.status_code == 401
    assert refused.headers["www-authenticate"].startswith("Bearer")
    assert "trainctl keys create" in refused.json()["detail"]


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example.org"},
        {"host": "127.0.0.1.evil.example.org:8000"},
        {"host": "evil.example.org@127.0.0.1"},
        {"host": ""},
        {"host": "[::1"},
    ],
)
async def test_a_name_that_leads_here_opens_nothing(service, headers):
    """As a page does whose name an attacker lets lead to 127.0.0.1."""
    for path in (ME, "/health", "/openapi.json"):
        assert (await service.get(path, headers=headers)).status_code == 403


async def test_what_a_proxy_here_passes_on_is_not_from_here(service):
    for header in ("x-forwarded-for", "forwarded", "x-real-ip"):
        assert (await service.get(ME, headers={header: "127.0.0.1"})).status_code == 401


async def test_the_first_key_closes_the_door_to_whoever_has_none(service, app, key):
    app.state.gate._looked = float("-inf")  # as a second later

    assert (await service.get(ME)).status_code == 401
    for headers in ({"authorization": f"Bearer {key}"}, {"x-api-key": key}):
        assert (await service.get(ME, headers=headers)).json()["name"] == "ci"


async def test_a_wrong_key_opens_nothing_even_here(service):
    assert (await service.get(ME, headers={"x-api-key": "anything"})).status_code == 401
    assert (await service.get(ME, headers={"authorization": "Basic YTpi"})).status_code == 401


async def test_two_different_keys_are_refused(outsider, key):
    headers = {"authorization": f"Bearer {key}", "x-api-key": "another"}
    assert (await outsider.get(ME, headers=headers)).status_code == 401


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 201),
        ({"origin": "http://127.0.0.1:8000"}, 201),
        ({"sec-fetch-site": "same-origin"}, 201),
        ({"origin": "https://evil.example.org"}, 403),
        ({"origin": "http://127.0.0.1:9999"}, 403),
        ({"origin": "null"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
    ],
)
async def test_a_page_of_another_site_sends_nothing(service, headers, status):
    assert (await service.post("/api/access/tickets", headers=headers)).status_code == status


async def test_a_large_body_is_refused_whatever_its_header_says(app, service):
    @app.post("/echo")
    async def echo(request: Request, caller: Submitter) -> int:
        return len(await request.body())

    async def parts():
        for _ in range(20):
            yield b"x" * 2**16

    assert (await service.post("/echo", content=b"x" * 2**20)).json() == 2**20
    declared = await service.post("/echo", content=b"x" * (2**20 + 1))
    streamed = await service.post("/echo", content=parts())
    assert "content-length" not in streamed.request.headers
    for answer in (declared, streamed):
        assert (answer.status_code, answer.json()["status"]) == (413, 413)


async def test_a_large_body_is_not_read_to_its_end():
    """A sender without end is stopped at the limit."""
    given = 0

    async def receive():
        nonlocal given
        given += 2**16
        return {"type": "http.request", "body": b"x" * 2**16, "more_body": True}

    limited = _limited(receive, 2**20)
    for _ in range(16):
        await limited()
    with pytest.raises(HTTPException, match="larger than"):
        await limited()
    assert given <= 2**20 + 2**16


async def test_who_asks_too_often_is_told_when_to_come_again(app, outsider, key):
    app.state.gate._requests = Buckets(0.5, 2)
    headers = {"authorization": f"Bearer {key}"}

    answers = [await outsider.get(ME, headers=headers) for _ in range(3)]

    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert answers[-1].headers["retry-after"] == "2"


async def test_wrong_keys_of_an_address_come_to_an_end_and_right_ones_do_not(outsider, key):
    wrong = {"authorization": f"Bearer to_0123456789ab_{'x' * 43}"}

    statuses = [
        (await outsider.get(ME, headers=wrong)).status_code for _ in range(TRIES_AT_ONCE + 1)
    ]

    assert statuses == [401] * TRIES_AT_ONCE + [429]
    right = await outsider.get(ME, headers={"authorization": f"Bearer {key}"})
    assert right.status_code == 200


async def sign_in(client: httpx.AsyncClient, **form: str) -> httpx.Response:
    return await client.post("/sign-in", data={"name": "ada", "password": GOOD} | form)


async def test_a_user_signs_in_and_out(app, outsider, ada):
    entered = await sign_in(outsider, next="/jobs/1")

    assert (entered.status_code, entered.headers["location"]) == (303, "/jobs/1")
    cookie = entered.headers["set-cookie"].lower()
    assert all(word in cookie for word in ("httponly", "samesite=lax", "secure", "path=/"))
    assert (await outsider.get(ME)).json()["name"] == "ada"

    form = app.state.gate.sessions.form_token(outsider.cookies[COOKIE].partition(".")[0])
    old = outsider.cookies[COOKIE]
    left = await outsider.post("/sign-out", data={"csrf_token": form})
    assert left.status_code == 303
    assert COOKIE not in outsider.cookies
    again = await outsider.get(ME, headers={"cookie": f"{COOKIE}={old}"})
    assert again.status_code == 401


@pytest.mark.parametrize(
    "form", [{"password": BAD}, {"name": "nobody"}, {"password": ""}, {"name": ""}]
)
async def test_nobody_learns_which_of_name_and_password_is_wrong(app, outsider, ada, form):
    refused = await sign_in(outsider, **form)

    assert (refused.status_code, refused.headers["location"]) == (303, "/sign-in?failed=1")
    assert "set-cookie" not in refused.headers
    assert [(deed.who, deed.outcome) for deed in await log_of(app)] == [("", "wrong")]


async def test_passwords_are_tried_so_often_only(app, outsider, ada):
    for _ in range(TRIES_AT_ONCE):
        await sign_in(outsider, password=BAD)

    refused = await sign_in(outsider)

    assert refused.status_code == 429
    assert 0 < int(refused.headers["retry-after"]) <= 6


@pytest.mark.parametrize("then", ["https://evil.org", "//evil.org", "/\\evil.org", "", "x"])
async def test_signing_in_leads_to_no_other_site(outsider, ada, then):
    assert (await sign_in(outsider, next=then)).headers["location"] == "/"


async def test_a_session_sends_only_forms_that_were_made_for_it(app, outsider, ada):
    await sign_in(outsider)
    form = app.state.gate.sessions.form_token(outsider.cookies[COOKIE].partition(".")[0])
    other = app.state.gate.sessions.form_token("0" * 32)

    async def post(**given: dict[str, str]) -> int:
        return (await outsider.post("/api/access/tickets", **given)).status_code

    assert await post() == 403
    assert await post(headers={"x-csrf-token": other}) == 403
    assert await post(data={"csrf_token": other}) == 403
    assert await post(headers={"x-csrf-token": form}) == 201
    assert await post(data={"csrf_token": form}) == 201


async def test_what_is_changed_or_refused_is_in_the_audit_log(app, outsider, key):
    headers = {"authorization": f"Bearer {key}", "x-forwarded-for": "1.2.3.4"}

    @app.put("/things/{job_id}")
    async def change(job_id: str, caller: Submitter) -> None: ...

    @app.put("/reports/{job_id}")
    async def report(job_id: str, caller: Reporter) -> None: ...

    await outsider.get(ME, headers=headers)
    await outsider.put("/reports/7", headers=headers)
    await outsider.put("/things/7")
    await outsider.put("/things/7", headers=headers)

    assert [
        (deed.who, deed.key_id, deed.address, deed.action, deed.job, deed.outcome)
        for deed in await log_of(app)
    ] == [("ci", key.split("_")[1], "203.0.113.7", "PUT /things/{job_id}", "7", "200")]


async def test_a_trusted_proxy_says_who_and_from_where(app):
    with_settings(
        app, trusted_proxies="10.0.0.0/8", proxy_user_header="X-User", new_user_scopes="read"
    )
    headers = {"x-user": "bob", "x-forwarded-for": "9.9.9.9, 198.51.100.1, 10.0.0.3"}

    async with client_of(app, "10.0.0.2", "https://train.example.org") as proxy:
        assert (await proxy.get(ME, headers=headers)).json()["name"] == "bob"
        refused = await proxy.post("/api/access/tickets", headers=headers | {"origin": "https://x"})
        assert refused.status_code == 403
    async with client_of(app, "203.0.113.7", "https://train.example.org") as other:
        assert (await other.get(ME, headers=headers)).status_code == 401
    async with client_of(app, "127.0.0.1", "http://127.0.0.1") as here:
        assert (await here.get(ME)).status_code == 401


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"proxy_user_header": "X-User"}, "TRUSTED_PROXIES"),
        ({"trusted_proxies": "here"}, "TRUSTED_PROXIES = 'here'"),
        ({"oidc_issuer": "https://id.example.org"}, "OIDC_CLIENT_ID"),
        ({"oidc_issuer": "id.example.org"}, "OIDC_ISSUER = 'id.example.org'"),
        ({"new_user_scopes": "all"}, "NEW_USER_SCOPES = 'all'"),
        ({"session_hours": "0"}, "SESSION_HOURS"),
    ],
)
def test_settings_that_cannot_be_are_named(given, words):
    with pytest.raises(ConfigError, match=words):
        read_settings(AccessSettings, **given)


async def test_a_ticket_opens_one_websocket_and_no_other_route(app, service, outsider):
    ticket = (await service.post("/api/access/tickets")).json()

    @app.websocket("/listen")
    async def listen(websocket: WebSocket, caller: Submitter) -> None:
        await websocket.accept()

    assert ticket["expires_in"] == 30
    query = f"ticket={ticket['ticket']}"
    here = {"host": "127.0.0.1:8000"}
    assert (await outsider.get(f"{ME}?{query}", headers=here)).status_code == 401
    statuses = [await socket_status(app, "/listen", here, query) for _ in range(2)]
    assert statuses == [101, 401]


async def test_a_websocket_of_a_page_of_another_site_is_refused(app, key):
    headers = {"authorization": f"Bearer {key}", "origin": "https://evil.example.org"}

    assert await socket_status(app, "/ws/training/jobs/x", headers) == 403
