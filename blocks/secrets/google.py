"""Secrets in Google Secret Manager."""

from __future__ import annotations

import base64
import binascii
import os
import re
from functools import partial
from typing import Any

from blocks.secrets.vault import SECONDS, asked, odd
from trainer.contract.errors import (
    ConfigError,
    ConnectionLost,
    CredentialsError,
    DependencyError,
    ProviderError,
)

URL, URL_VARIABLE = "https://secretmanager.googleapis.com", "SECRET_MANAGER_API_URL"
SCOPES = ("https://www.googleapis.com/auth/cloud-platform",)
VAULT = "Google Secret Manager"
PROJECTS = ("GOOGLE_CLOUD_PROJECT", "GCP_PROJECT")
LOG_IN = (
    "Set GOOGLE_APPLICATION_CREDENTIALS to the key file of a service account, or run: gcloud auth "
    "application-default login."
)
WHOLE = re.compile(r"projects/[^/]+/secrets/[^/]+(/versions/[^/]+)?")


def fetch(place: str, name: str) -> str:
    """Return a secret's newest version, or the one that is named; blocking.

    Args:
        place: its name, or projects/PROJECT/secrets/NAME with or without /versions/VERSION.
        name: how errors call the secret.

    Raises:
        CredentialsError: there are no credentials, or they lack the right.
        ConfigError: there is no such secret, or no project is set.
        ConnectionLost: the service does not answer.
        DependencyError: google-auth is not installed.
    """
    what = f"{name} = secret://gcp/{place}"
    token, project = _login(what)
    path = place
    if WHOLE.fullmatch(place) is None:
        if "/" in place or not place:
            raise ConfigError(
                f"{what}: is no secret.", "Write NAME, or projects/PROJECT/secrets/NAME."
            )
        if not project:
            raise ConfigError(f"{what}: no project is set.", f"Set {PROJECTS[0]}.")
        path = f"projects/{project}/secrets/{place}"
    if "/versions/" not in path:
        path += "/versions/latest"
    base = (os.environ.get(URL_VARIABLE) or URL).rstrip("/")
    found = asked(
        f"{base}/v1/{path}:access",
        token,
        what=what,
        vault=VAULT,
        remedy="Check the network.",
        refused=partial(_refused, what, path),
    )
    try:
        return base64.b64decode(found["payload"]["data"]).decode("utf-8")
    except (LookupError, TypeError, ValueError, binascii.Error) as error:
        raise odd(what, VAULT, error) from None


def _login(what: str) -> tuple[str, str]:
    """Return a token, and the project of whoever logs in."""
    try:
        import google.auth
        from google.auth import exceptions
        from google.auth.transport.requests import Request
    except ImportError as error:
        raise DependencyError(
            f"{what}: reading it needs google-auth.", "pip install 'training-orchestrator[gcp]'"
        ) from error
    try:
        credentials: Any
        credentials, project = google.auth.default(scopes=SCOPES)
        credentials.refresh(partial(Request(), timeout=SECONDS))
    except exceptions.TransportError as error:
        raise ConnectionLost(
            f"{what}: Google gives no token ({type(error).__name__}).", "Check the network."
        ) from None
    except (exceptions.GoogleAuthError, OSError, ValueError) as error:
        raise CredentialsError(
            f"{what}: there are no credentials for Google Cloud that can be used "
            f"({type(error).__name__}).",
            LOG_IN,
        ) from None
    named = next((value for one in PROJECTS if (value := os.environ.get(one))), "")
    return str(credentials.token), named or str(project or "")


def _refused(what: str, path: str, status: int) -> ProviderError | ConfigError:
    match status:
        case 401:
            return CredentialsError(f"{what}: Google does not take the credentials.", LOG_IN)
        case 403:
            return CredentialsError(
                f"{what}: the credentials lack the right to read it.",
                "Grant the role roles/secretmanager.secretAccessor on "
                f"{path.partition('/versions')[0]}, and enable secretmanager.googleapis.com.",
            )
        case 404:
            return ConfigError(
                f"{what}: there is no such secret, or it has no version.",
                "Correct the name, or set GOOGLE_CLOUD_PROJECT to the project that it is in.",
            )
        case _:
            return ProviderError(f"{what}: Google Secret Manager says HTTP {status}.")
