"""Why a caller is not let in; the HTTP interface gives each its status."""

from __future__ import annotations

import math

from trainer.contract.errors import OrchestratorError


class Unauthenticated(OrchestratorError):
    """Nobody knows who asks (401)."""

    default_suggestion = (
        "Send a key as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'; an administrator makes one: "
        "trainctl keys create NAME."
    )


class Forbidden(OrchestratorError):
    """It is known who asks, and may not do this (403)."""

    default_suggestion = "Ask an administrator for a key that may."


class SignInAway(OrchestratorError):
    """The OpenID provider does not answer, or not as it should (503)."""

    default_suggestion = (
        "Try again later; an administrator checks TRAINING_ORCHESTRATOR_OIDC_ISSUER."
    )


class TooManyRequests(OrchestratorError):
    """It asks too often (429)."""

    def __init__(self, message: str, wait: float) -> None:
        self.seconds = max(1, math.ceil(wait))
        super().__init__(message, f"Try again in {self.seconds} s.")

    def __reduce__(self) -> tuple[type[TooManyRequests], tuple[str, float]]:  # type: ignore[override]
        return type(self), (self.message, float(self.seconds))
