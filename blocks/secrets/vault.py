"""One request to a vault that answers with JSON over HTTP."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import httpx

from trainer.contract.errors import ConnectionLost, OrchestratorError, ProviderError

SECONDS = 10.0  # of silence that a vault is allowed


def asked(
    url: str,
    token: str,
    *,
    what: str,
    vault: str,
    remedy: str,
    refused: Callable[[int], OrchestratorError],
    params: Mapping[str, str] | None = None,
) -> Any:
    """Return the JSON of a vault's answer; blocking.

    Args:
        url: of the secret.
        token: of whoever reads it.
        what: how errors call the secret.
        vault: how errors call the vault.
        remedy: what to do when it does not answer.
        refused: makes the error of an HTTP status that is not 200.
        params: of the query.

    Raises:
        ConnectionLost: it does not answer.
        OrchestratorError: it refuses; or its answer is no JSON.
    """
    try:
        answer = httpx.get(
            url,
            params=params,
            headers={"Authorization": f"Bearer {token}"},
            timeout=SECONDS,
        )
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise ConnectionLost(
            f"{what}: {vault} does not answer ({type(error).__name__}).", remedy
        ) from None
    if answer.status_code != httpx.codes.OK:
        raise refused(answer.status_code)
    try:
        return answer.json()
    except ValueError as error:
        raise odd(what, vault, error) from None


def odd(what: str, vault: str, error: Exception) -> ProviderError:
    """Return the error of an answer of another shape; what it holds is not quoted."""
    return ProviderError(
        f"{what}: {vault}'s answer is not as it is described ({type(error).__name__})."
    )
