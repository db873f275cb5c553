"""What the agent needs of a bucket."""

from __future__ import annotations

from abc import ABC, abstractmethod


class Box(ABC):
    """What the agent needs of a bucket."""

    errors: tuple[type[Exception], ...]
    """What is raised when it does not answer, or refuses."""

    @abstractmethod
    def get(self, name: str) -> bytes | None:
        """Return an object, or None if there is none."""

    @abstractmethod
    def put(self, name: str, content: bytes) -> None:
        """Make or replace an object."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove an object, if it is there."""
