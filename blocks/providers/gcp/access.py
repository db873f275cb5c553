"""Who we are to Google Cloud: tokens by Google's standard credentials, and the project."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from blocks.providers.api import Answer, Api, Request
from blocks.providers.gcp.answers import failure_of, is_rate
from blocks.threads import in_thread
from trainer.contract.errors import CredentialsError, DependencyError

SCOPES = ("https://www.googleapis.com/auth/compute",)
EARLY = timedelta(minutes=5)  # before its end a token is replaced
TOKEN_SECONDS = 20.0  # of silence that a token endpoint is allowed
KEY_FILE = "GOOGLE_APPLICATION_CREDENTIALS"
SET_CREDENTIALS = (
    f"Set {KEY_FILE} to the key file of a service account, or run: gcloud auth "
    "application-default login."
)


@dataclass
class _Account:
    """The credentials of one account in this process, once they are loaded."""

    credentials: Any = None
    lock: threading.Lock = field(default_factory=threading.Lock)


_accounts: dict[str, _Account] = {}


def source_of(given: str) -> str:
    """Return a digest of where the credentials come from; no secret can be read from it.

    Args:
        given: JSON of a block; empty: Google's standard chain.
    """
    names = (KEY_FILE, "CLOUDSDK_CONFIG", "GCE_METADATA_HOST", "HOME")
    parts = [given, *(os.environ.get(name, "") for name in names)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def project_of(given: str) -> str:
    """Return the project that a key names, of a block's JSON or of the key file; else nothing."""
    path = os.environ.get(KEY_FILE, "")
    try:
        text = given or (Path(path).read_text(encoding="utf-8") if path else "{}")
        record = json.loads(text)
    except (OSError, ValueError):  # whoever asks for a token says what is wrong with it
        return ""
    return str(record.get("project_id") or "") if isinstance(record, dict) else ""


class GoogleToken(httpx.Auth):
    """Signs every call with a token that is fresh enough."""

    def __init__(self, given: str) -> None:
        """Begin.

        Args:
            given: JSON of a service account's key; empty: Google's standard chain.
        """
        self._given = given
        self._account = _accounts.setdefault(source_of(given), _Account())

    async def async_auth_flow(
        self, request: httpx.Request
    ) -> AsyncGenerator[httpx.Request, httpx.Response]:
        """Add the token; one that is refused is replaced once.

        Raises:
            CredentialsError: there are no credentials, or they are refused.
            DependencyError: google-auth is not installed.
        """
        request.headers["Authorization"] = f"Bearer {await self._token(stale=False)}"
        response = yield request
        # Nothing was done, so even an order may be sent again.
        if response.status_code == httpx.codes.UNAUTHORIZED:
            request.headers["Authorization"] = f"Bearer {await self._token(stale=True)}"
            yield request

    async def _token(self, *, stale: bool) -> str:
        return await in_thread(lambda _: self._fresh(stale=stale))

    def _fresh(self, *, stale: bool) -> str:
        """Return a token, in a thread; google-auth blocks."""
        try:
            from google.auth import exceptions
            from google.auth.transport.requests import Request as Transport
        except ImportError as error:
            raise DependencyError(
                "provider gcp needs google-auth: pip install 'training-orchestrator[gcp]'."
            ) from error
        try:
            with self._account.lock:
                credentials = self._account.credentials or _loaded(self._given)
                if stale or not credentials.token or _ends_soon(credentials.expiry):
                    credentials.refresh(partial(Transport(), timeout=TOKEN_SECONDS))
                self._account.credentials = credentials
                return str(credentials.token)
        except exceptions.TransportError as error:
            # Nothing was sent to the API: it is tried again as any call is.
            raise httpx.ConnectError(f"no token can be fetched: {error}") from error
        except exceptions.GoogleAuthError as error:
            if getattr(error, "retryable", False):
                raise httpx.ConnectError(f"no token can be fetched: {error}") from error
            raise CredentialsError(
                f"Google Cloud's credentials cannot be used: {_words(error)}.", SET_CREDENTIALS
            ) from error
        # A key file that is away, or holds something else: google-auth takes its shape for granted.
        except (AttributeError, LookupError, TypeError, ValueError, OSError) as error:
            raise CredentialsError(
                f"Google Cloud's credentials cannot be read: {type(error).__name__}.",
                SET_CREDENTIALS,
            ) from error


def _loaded(given: str) -> Any:
    import google.auth
    from google.oauth2 import service_account

    if given:
        key = json.loads(given)
        return service_account.Credentials.from_service_account_info(key, scopes=SCOPES)
    credentials, _ = google.auth.default(scopes=SCOPES)
    return credentials


def _ends_soon(expiry: datetime | None) -> bool:
    """Whether a token must be replaced; google-auth's times are UTC without saying so."""
    return expiry is not None and expiry - EARLY < datetime.now(UTC).replace(tzinfo=None)


def _words(error: Exception) -> str:
    """Return the first words of an error: others may be a whole answer."""
    text = str(error.args[0]) if error.args else type(error).__name__
    return text.strip().rstrip(".").splitlines()[0][:300]


class GoogleApi(Api):
    """The API, which says in two ways that it is asked too often."""

    async def _send(self, request: Request) -> tuple[str, Answer | None, bool]:
        """Take a 403 that limits the rate for the 429 that it means: nothing was done."""
        trouble, answer, sent = await super()._send(request)
        if answer is not None and answer.status == httpx.codes.FORBIDDEN:
            failure = failure_of(answer)
            if failure and is_rate(failure):
                answer = replace(answer, status=int(httpx.codes.TOO_MANY_REQUESTS))
        return trouble, answer, sent
