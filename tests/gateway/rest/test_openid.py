"""Sign in at a local OpenID provider, over real HTTP; and what it may not get away with."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
from fastapi import FastAPI
from joserfc.jwk import RSAKey

from gateway.access.gate import Gate
from gateway.access.settings import CLIENT_SECRET as VARIABLE
from gateway.access.settings import AccessSettings
from gateway.access.users import add_user
from gateway.reading_settings import read_settings
from tests.clouds.openid import CLIENT, SHARED, OpenIdServer
from tests.gateway.rest.conftest import gate_alone

ME = "/api/access/me"
SITE = "https://train.example.org"


@pytest.fixture
async def app() -> AsyncIterator[FastAPI]:
    async with gate_alone() as made:
        yield made


@pytest.fixture
def provider(app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenIdServer]:
    monkeypatch.setenv(VARIABLE, SHARED)
    with OpenIdServer() as server:
        gate: Gate = app.state.gate
        settings = read_settings(
            AccessSettings, oidc_issuer=server.issuer, oidc_client_id=CLIENT, public_url=SITE
        )
        app.state.gate = Gate(gate.engine, gate.key, settings, gate._is_unfinished)
        yield server


@pytest.fixture
async def ada(app: FastAPI) -> None:
    await add_user(app.state.database, "ada@example.org", ["submit"], password=None)


async def way_back(outsider: httpx.AsyncClient, then: str = "/jobs") -> str:
    """Go to the provider as a browser does; return the address to which it sends back."""
    begun = await outsider.get("/sign-in/oidc", params={"next": then})
    assert begun.status_code == 303
    async with httpx.AsyncClient() as browser:
        answer = await browser.get(begun.headers["location"])
    assert answer.headers["location"].startswith(f"{SITE}/sign-in/oidc/callback?")
    return answer.headers["location"]


async def test_somebody_signs_in_at_the_provider(outsider, provider, ada):
    back = await outsider.get(await way_back(outsider))

    assert (back.status_code, back.headers["location"]) == (303, "/jobs")
    assert (await outsider.get(ME)).json()["name"] == "ada@example.org"


async def test_whoever_is_no_user_here_is_told_so(outsider, provider):
    back = await outsider.get(await way_back(outsider))

    assert back.status_code == 403
    assert "trainctl users add" in back.json()["detail"]


@pytest.mark.parametrize(
    "lie",
    [
        {"iss": "https://evil.example.org"},
        {"aud": "another client"},
        {"nonce": "another sign-in's"},
        {"exp": 1},
        {"email": ""},
        {"email_verified": False},
    ],
    ids=lambda lie: next(iter(lie)),
)
async def test_a_token_that_does_not_hold_opens_nothing(outsider, provider, ada, lie):
    provider.changed = lie

    assert (await outsider.get(await way_back(outsider))).status_code == 401


async def test_a_token_that_another_key_signed_opens_nothing(outsider, provider, ada):
    provider.signs_with = RSAKey.generate_key(2048, {"kid": "1"})

    assert (await outsider.get(await way_back(outsider))).status_code == 401


async def test_a_sign_in_that_another_browser_began_opens_nothing(outsider, provider, ada):
    """As when an attacker sends somebody the link with which he himself would come back."""
    back = await way_back(outsider)
    outsider.cookies.clear()

    assert (await outsider.get(back)).status_code == 401


async def test_a_code_counts_once(outsider, provider, ada):
    begun = await way_back(outsider)
    cookies = dict(outsider.cookies)
    assert (await outsider.get(begun)).status_code == 303
    outsider.cookies.clear()
    outsider.cookies.update(cookies)

    assert (await outsider.get(begun)).status_code == 401


async def test_a_provider_that_is_away_is_said_to_be(app, outsider, provider):
    gone = provider.issuer.rpartition(":")[0] + ":9"
    gate: Gate = app.state.gate
    settings = gate.settings.model_copy(update={"oidc_issuer": gone})
    app.state.gate = Gate(gate.engine, gate.key, settings, gate._is_unfinished)

    answer = await outsider.get("/sign-in/oidc")

    assert answer.status_code == 503
    assert gone in answer.json()["detail"]


async def test_without_a_provider_there_is_no_such_way(service):
    assert (await service.get("/sign-in/oidc")).status_code == 404
