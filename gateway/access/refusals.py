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

    seconds: int = 1
    """After which it may ask again."""

    @classmethod
    def until(cls, message: str, wait: float) -> TooManyRequests:
        """Return the refusal of what may be asked again after `wait` seconds."""
        seconds = max(1, math.ceil(wait))
        refusal = cls(message, f"Try again in {seconds} s.")
        refusal.seconds = seconds
        return refusal
