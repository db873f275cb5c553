"""What is sent, and what goes wrong with sending."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from trainer.contract.errors import OrchestratorError


class Level(StrEnum):
    """How bad it is; the words are Apprise's."""

    INFO = "info"
    SUCCESS = "success"
    WARNING = "warning"
    FAILURE = "failure"


@dataclass(frozen=True, slots=True, kw_only=True)
class PersonalMessage:
    """One message, of one event or of many."""

    id: str
    """The same whenever it is sent again."""
    title: str
    body: str
    """Lines of plain text."""
    level: Level
    events: tuple[dict[str, Any], ...]
    """What it tells of, for programs."""


class NotDelivered(OrchestratorError):
    """A receiver did not take a message; it is sent again later."""

    default_suggestion = "It is sent again; look at the receiver meanwhile."

    def __init__(self, message: str, suggestion: str | None = None, *, wait: float = 0.0) -> None:
        super().__init__(message, suggestion)
        self.wait = wait
        """Seconds that the receiver asks us to wait."""


class MessageRefused(OrchestratorError):
    """A receiver refuses it, or cannot be one; nothing changes before a person changes something."""

    default_suggestion = "Correct the address or its key, and try it: 'trainctl notify test'."
