"""Sign in at an OpenID provider: the authorization code flow with PKCE.

https://openid.net/specs/openid-connect-core-1_0.html, section 3.1, read 2026-12.
"""

from __future__ import annotations

import json
import secrets
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from hashlib import sha256
from typing import Any
from urllib.parse import urlencode

import httpx
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from blocks.secrets.reading import secret
from gateway.access.refusals import SignInAway, Unauthenticated
from gateway.access.settings import CLIENT_SECRET, AccessSettings
from gateway.access.signing import is_signature, same, signature

CALLBACK = "/sign-in/oidc/callback"
ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "Ed25519")
SECONDS = 600
"""How long somebody may take to sign in there."""
LEEWAY = 60  # seconds by which clocks differ
TIMEOUT = 10.0
_FAILED = "Signing in at the OpenID provider failed"


class OpenIdProvider:
    """The provider of the settings."""

    def __init__(self, settings: AccessSettings, key: bytes) -> None:
        self._settings = settings
        self._key = key
        self._redirect = settings.public_url + CALLBACK

    async def begin(self, then: str) -> tuple[str, str]:
        """Return the address to send a browser to, and the cookie that it brings back.

        Args:
            then: the path here to go to afterwards.

        Raises:
            SignInAway: the provider does not answer, or not as it should.
        """
        about = await self._about()
        kept = {
            "state": secrets.token_urlsafe(32),
            "nonce": secrets.token_urlsafe(32),
            "verifier": secrets.token_urlsafe(48),
            "then": then,
            "until": time.time() + SECONDS,
        }
        challenge = sha256(str(kept["verifier"]).encode()).digest()
        query = {
            "response_type": "code",
            "client_id": self._settings.oidc_client_id,
            "redirect_uri": self._redirect,
            "scope": "openid email profile",
            "state": kept["state"],
            "nonce": kept["nonce"],
            "code_challenge": urlsafe_b64encode(challenge).decode().rstrip("="),
            "code_challenge_method": "S256",
        }
        text = urlsafe_b64encode(json.dumps(kept).encode()).decode()
        cookie = f"{text}.{signature(self._key, 'oidc', text)}"
        address = str(about["authorization_endpoint"])
        return f"{address}{'&' if '?' in address else '?'}{urlencode(query)}", cookie

    async def finish(self, code: str, state: str, cookie: str) -> tuple[str, str]:
        """Return who has signed in, and the path to go to.

        Args:
            code: from the provider, by the browser.
            state: likewise.
            cookie: from `begin`.

        Raises:
            Unauthenticated: it was not begun here by this browser, or took too long, or the provider
                does not say who it is.
            SignInAway: the provider does not answer, or not as it should.
        """
        kept = self._kept(cookie)
        if kept is None or not same(state, str(kept["state"])):
            raise Unauthenticated(
                f"{_FAILED}: it was not begun here, or too long ago.", "Try again."
            )
        about = await self._about()
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self._redirect,
            "client_id": self._settings.oidc_client_id,
            "code_verifier": str(kept["verifier"]),
        }
        if password := secret(CLIENT_SECRET):
            form["client_secret"] = password
        async with httpx.AsyncClient(timeout=TIMEOUT) as client:
            answer = await _asked(client, "POST", str(about["token_endpoint"]), form)
            keys = await _asked(client, "GET", str(about["jwks_uri"]))
        claims = self._claims(answer, keys, about, str(kept["nonce"]))
        return self._name(claims), str(kept["then"])

    async def _about(self) -> dict[str, Any]:
        issuer = self._settings.oidc_issuer
        async with httpx.AsyncClient(timeout=TIMEOUT) as client:
            about = await _asked(client, "GET", f"{issuer}/.well-known/openid-configuration")
        needed = ("issuer", "authorization_endpoint", "token_endpoint", "jwks_uri")
        if any(not isinstance(about.get(name), str) for name in needed):
            raise SignInAway(f"{issuer} does not describe itself as an OpenID provider.")
        if about["issuer"].rstrip("/") != issuer:
            raise SignInAway(f"{issuer} says that it is {about['issuer']!r}.")
        return about

    def _kept(self, cookie: str) -> dict[str, Any] | None:
        text, _, signed = cookie.partition(".")
        if not is_signature(signed, self._key, "oidc", text):
            return None
        kept: dict[str, Any] = json.loads(urlsafe_b64decode(text))
        return kept if kept["until"] > time.time() else None

    def _claims(
        self, answer: dict[str, Any], keys: dict[str, Any], about: dict[str, Any], nonce: str
    ) -> dict[str, Any]:
        wanted = jwt.JWTClaimsRegistry(
            leeway=LEEWAY,
            iss={"essential": True, "value": about["issuer"]},
            aud={"essential": True, "value": self._settings.oidc_client_id},
            nonce={"essential": True, "value": nonce},
            exp={"essential": True},
        )
        try:
            key_set = KeySet.import_key_set({"keys": keys["keys"]})
            token = jwt.decode(str(answer["id_token"]), key_set, list(ALGORITHMS))
            wanted.validate(token.claims)
        except (JoseError, KeyError, TypeError, ValueError) as error:
            why = f"{_FAILED}: its token does not hold: {type(error).__name__}."
            raise Unauthenticated(why, "Try again.") from None
        return token.claims

    def _name(self, claims: dict[str, Any]) -> str:
        claim = self._settings.oidc_claim
        name = claims.get(claim)
        if not isinstance(name, str) or not name:
            raise Unauthenticated(
                f"{_FAILED}: its token has no {claim!r}.",
                "An administrator sets TRAINING_ORCHESTRATOR_OIDC_CLAIM to one that it has.",
            )
        # At some providers anybody may write any address into their profile.
        if claim == "email" and claims.get("email_verified") is not True:
            raise Unauthenticated(
                f"{_FAILED}: it does not say that the address is verified.",
                "Verify it there; or an administrator sets TRAINING_ORCHESTRATOR_OIDC_CLAIM to "
                "another one, such as 'sub'.",
            )
        return name


async def _asked(
    client: httpx.AsyncClient, method: str, url: str, form: dict[str, str] | None = None
) -> dict[str, Any]:
    try:
        answer = await client.request(method, url, data=form)
        answer.raise_for_status()
        found = answer.json()
    except httpx.HTTPStatusError as error:
        if form is not None and error.response.is_client_error:  # the code is wrong, or used
            raise Unauthenticated(f"{_FAILED}: it refuses its own code.", "Try again.") from None
        raise SignInAway(f"{url} answers {error.response.status_code}.") from None
    except (httpx.HTTPError, ValueError) as error:
        raise SignInAway(f"{url} does not answer as it should: {type(error).__name__}.") from None
    if not isinstance(found, dict):
        raise SignInAway(f"{url} does not answer with an object.")
    return found
