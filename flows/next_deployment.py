"""Whether the deployment that a job names in `on_completion` exists, and takes its parameters' names.

Nothing here imports Prefect, which takes two seconds: `trainctl submit` looks too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trainer.config.on_completion import OnCompletion
from trainer.contract.errors import ConfigError

FIELD = "on_completion.deployment"


def refuse_missing(wanted: OnCompletion, deployment: Mapping[str, Any] | None) -> None:
    """Refuse a deployment that does not exist, or that lacks a parameter or knows none of a name.

    Args:
        wanted: what the job asks for.
        deployment: as Prefect's API writes it; None: there is none.

    Raises:
        ConfigError: naming the field and the remedy.
    """
    if deployment is None:
        raise ConfigError(
            f"{FIELD} = {wanted.deployment!r}: Prefect has no such deployment.",
            "Name one of 'prefect deployment ls', as FLOW/NAME, or remove on_completion.",
        )
    form = deployment.get("parameter_openapi_schema") or {}
    known, given = form.get("properties") or {}, {**(deployment.get("parameters") or {})}
    given |= wanted.parameters
    # A flow with **kwargs takes any name.
    unknown = sorted(set(wanted.parameters) - set(known)) if known and "kwargs" not in known else []
    lacking = sorted(set(form.get("required") or []) - set(given))
    for what, names in (("has no parameter", unknown), ("needs the parameter", lacking)):
        if names:
            raise ConfigError(
                f"on_completion.parameters: {wanted.deployment} {what} {', '.join(names)}.",
                f"It takes {', '.join(known) or 'none'}.",
            )
