"""Secrets in Azure Key Vault."""

from __future__ import annotations

import logging
import os
import re
from functools import partial

from blocks.secrets.vault import asked, odd
from trainer.contract.errors import (
    ConfigError,
    CredentialsError,
    DependencyError,
    ProviderError,
)

URL_VARIABLE = "AZURE_KEY_VAULT_URL"
"""The base URL of the vault, instead of the one that its name makes."""
DOMAIN, VERSION = "vault.azure.net", "7.4"
LOG_IN = (
    "Set AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET, run `az login`, or give this "
    "machine a managed identity."
)
VAULT = re.compile(r"[A-Za-z0-9-]{3,24}|[a-z0-9-]+(\.[a-z0-9-]+)+", re.ASCII)


def fetch(place: str, name: str) -> str:
    """Return a secret's current version; blocking.

    Args:
        place: VAULT/NAME or VAULT/NAME/VERSION; of another cloud than the public one, the vault is
            its whole host.
        name: how errors call the secret.

    Raises:
        CredentialsError: there are no credentials, or they lack the right.
        ConfigError: there is no such vault or secret.
        ConnectionLost: the vault does not answer.
        DependencyError: azure-identity is not installed.
    """
    what = f"{name} = secret://azure/{place}"
    vault, _, path = place.partition("/")
    if not path or VAULT.fullmatch(vault) is None:
        raise ConfigError(f"{what}: is no secret.", "Write secret://azure/VAULT/NAME.")
    host = vault if "." in vault else f"{vault}.{DOMAIN}"
    # The scope is the cloud's, and not the vault's own.
    token = _token(what, f"https://{host.partition('.')[2]}/.default")
    base = (os.environ.get(URL_VARIABLE) or f"https://{host}").rstrip("/")
    found = asked(
        f"{base}/secrets/{path}",
        token,
        what=what,
        vault="the vault",
        remedy="Check the vault's name, and whether its firewall lets this computer in.",
        refused=partial(_refused, what, vault),
        params={"api-version": VERSION},
    )
    try:
        return str(found["value"])
    except (LookupError, TypeError) as error:
        raise odd(what, "the vault", error) from None


def _token(what: str, scope: str) -> str:
    # What fails is said by us, once; the library would say it several times.
    logging.getLogger("azure.identity").setLevel(logging.CRITICAL)
    try:
        from azure.core.exceptions import AzureError
        from azure.identity import DefaultAzureCredential
    except ImportError as error:
        raise DependencyError(
            f"{what}: reading it needs azure-identity.",
            "pip install 'training-orchestrator[azure]'",
        ) from error
    try:
        return str(DefaultAzureCredential().get_token(scope).token)
    except (AzureError, ValueError) as error:
        # Its text quotes whole answers.
        raise CredentialsError(
            f"{what}: there is no login to Azure that can be used ({type(error).__name__}).", LOG_IN
        ) from None


def _refused(what: str, vault: str, status: int) -> ProviderError | ConfigError:
    match status:
        case 401:
            return CredentialsError(f"{what}: the vault does not take the login.", LOG_IN)
        case 403:
            return CredentialsError(
                f"{what}: the login lacks the right to read it, or the vault's firewall refuses us.",
                f"Assign the role Key Vault Secrets User on the vault {vault}.",
            )
        case 404:
            return ConfigError(f"{what}: there is no such secret.", "Correct the name.")
        case _:
            return ProviderError(f"{what}: the vault says HTTP {status}.")
