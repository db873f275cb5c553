"""Tokens for Azure: azure-identity gets them in a thread, and every call is signed with one."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import threading
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Any

import httpx

from blocks.secrets.reading import secret
from blocks.threads import in_thread
from trainer.contract.errors import (
    ConfigError,
    CredentialsError,
    DependencyError,
    OrchestratorError,
)

PUBLIC_AUTHORITY = "https://login.microsoftonline.com"
AUTHORITIES = {
    PUBLIC_AUTHORITY,
    "https://login.microsoftonline.us",
    "https://login.chinacloudapi.cn",
}
"""Whose own directory of authorities is asked; that of a private cloud is not in it."""
EARLY_SECONDS = 300.0  # before its end a token counts as used up
LOG_IN = (
    "Set AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET to those of an app registration, "
    "run `az login`, or give this computer a managed identity."
)
WORDS = {
    "AADSTS7000215": "the client secret is wrong",
    "AADSTS7000222": "the client secret has expired",
    "AADSTS700016": "the tenant has no application of this client id",
    "AADSTS90002": "there is no such tenant",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who logs in, and where; what is empty is left to azure-identity's standard chain."""

    tenant_id: str = ""
    client_id: str = ""
    client_secret: str = ""
    authority: str = ""
    """The host of Microsoft Entra; empty: AZURE_AUTHORITY_HOST, or that of the public cloud."""

    def digest(self) -> str:
        """Return what changes with the account that logs in, and shows no secret."""
        environment = sorted(
            (name, value) for name, value in os.environ.items() if name.startswith("AZURE_")
        )
        return hashlib.sha256(repr((self.parts(), environment)).encode()).hexdigest()

    def parts(self) -> tuple[str, ...]:
        """Return tenant, client, secret and authority."""
        return self.tenant_id, self.client_id, self.client_secret, self.authority

    def credential(self) -> Any:
        """Return azure-identity's credential for it; blocking.

        Raises:
            ImportError: azure-identity is not installed.
            ValueError: it is not complete, or the authority is none.
            OrchestratorError: the secret cannot be read where it is kept.
        """
        # Half a second, for those who need it.
        from azure.identity import ClientSecretCredential, DefaultAzureCredential

        given = self.authority or os.environ.get("AZURE_AUTHORITY_HOST") or PUBLIC_AUTHORITY
        authority = (given if "://" in given else f"https://{given}").rstrip("/ ")
        # Tried again by our own calls, for as long as those are.
        options: dict[str, Any] = {"authority": authority, "retry_total": 0}
        if authority not in AUTHORITIES:
            options["disable_instance_discovery"] = True
        tenant = self.tenant_id or os.environ.get("AZURE_TENANT_ID", "")
        client = self.client_id or os.environ.get("AZURE_CLIENT_ID", "")
        # Wherever it is kept; the standard chain reads it from the variable alone.
        key = secret("AZURE_CLIENT_SECRET", self.client_secret)
        if key and (self.client_secret or (tenant and client)):
            return ClientSecretCredential(
                tenant,
                client,
                key,
                **options,
            )
        return DefaultAzureCredential(**options)


class Login(httpx.Auth):
    """Signs calls with a token that is fetched anew before it ends, or once it is refused."""

    def __init__(self, credential: Callable[[], Any], scope: str) -> None:
        """Prepare; nothing is asked for yet.

        Args:
            credential: makes azure-identity's credential.
            scope: of the token, such as https://management.azure.com/.default.
        """
        self._make = credential
        self._scope = scope
        self._credential: Any = None
        self._token = ""
        self._until = 0.0  # Unix seconds, as a token's end is given
        self._lock = threading.Lock()

    async def async_auth_flow(
        self, request: httpx.Request
    ) -> AsyncGenerator[httpx.Request, httpx.Response]:
        """Sign a request; once more, with a fresh token, when the first one is refused."""
        token = await self._valid()
        request.headers["Authorization"] = f"Bearer {token}"
        response = yield request
        # Revoked, or the clock here is wrong. A refused call has done nothing, an order neither.
        if response.status_code == httpx.codes.UNAUTHORIZED:
            fresh = await in_thread(lambda _: self._fetched(token))
            request.headers["Authorization"] = f"Bearer {fresh}"
            yield request

    async def _valid(self) -> str:
        if time.time() < self._until - EARLY_SECONDS:
            return self._token
        return await in_thread(lambda _: self._fetched())

    def _fetched(self, refused: str = "") -> str:
        """Return a token that is not the one refused.

        Raises:
            OrchestratorError: there is none for these credentials.
            httpx.ConnectError: the token cannot be asked for now.
        """
        with self._lock:  # of several that come at once, one asks
            if refused and refused != self._token:
                return self._token
            if not refused and time.time() < self._until - EARLY_SECONDS:
                return self._token
            if refused or self._credential is None:
                self._credential = _made(self._make)  # a new one has no old token in its cache
            # MSAL remembers a failure for a minute, and that a service is back only then.
            credential, self._credential = self._credential, None
            found = _asked(credential, self._scope)
            self._credential = credential
            self._token, self._until = found.token, float(found.expires_on)
            return self._token


_logins: dict[tuple[str, str], Login] = {}


def login_of(identity: Identity, scope: str) -> Login:
    """Return the login of an identity, one for all calls of this process."""
    return _logins.setdefault((identity.digest(), scope), Login(identity.credential, scope))


def _made(make: Callable[[], Any]) -> Any:
    # What fails is said by us, once; the library would say it several times, and with a traceback.
    logging.getLogger("azure.identity").setLevel(logging.CRITICAL)
    try:
        return make()
    except ImportError as error:
        raise DependencyError(
            f"The provider azure needs azure-identity ({error}).",
            "pip install 'training-orchestrator[azure]'",
        ) from error
    except ValueError as error:
        raise ConfigError(
            f"Azure cannot be logged in to: {str(error).rstrip('.')}.", LOG_IN
        ) from error


def _asked(credential: Any, scope: str) -> Any:
    from azure.core.exceptions import AzureError, ClientAuthenticationError

    try:
        return credential.get_token(scope)
    except ClientAuthenticationError as error:
        # Also raised when the service itself fails, of which only the words tell.
        if re.search(r"HTTP Error: (5\d\d|429)|temporarily_unavailable", str(error)):
            raise httpx.ConnectError("no token: Microsoft Entra does not answer") from error
        raise _refused(str(error)) from None  # its text quotes the whole answer
    except AzureError as error:
        raise httpx.ConnectError(f"no token: {str(error).splitlines()[0]}") from error
    except ValueError as error:
        raise ConfigError(
            f"Azure cannot be logged in to: {str(error).rstrip('.')}.", LOG_IN
        ) from error


def _refused(words: str) -> OrchestratorError:
    code = re.search(r"AADSTS\d+", words)
    if code is None:
        return CredentialsError("Azure: azure-identity finds no login on this computer.", LOG_IN)
    why = WORDS.get(code[0], "the login was refused")
    return CredentialsError(f"Azure: {why} ({code[0]}).", LOG_IN)
