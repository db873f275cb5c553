"""How much room a disk has, by what `df -Pk` says of it."""

from __future__ import annotations

from dataclasses import dataclass

from trainer.contract.errors import OrchestratorError


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """The disk that something lies on."""

    free: int
    """Bytes."""
    total: int
    """Bytes."""


def room_in(line: str) -> Room:
    """Return what a line of `df -Pk` says; its names may hold spaces.

    Raises:
        OrchestratorError: it is no such line.
    """
    words = line.split()
    # A device or mount point may hold spaces, so columns are counted from the share in percent,
    # which the blocks in all, those used and those free precede.
    for index, word in enumerate(words):
        numbers = words[max(0, index - 3) : index]
        if word.endswith("%") and len(numbers) == 3 and all(n.isdecimal() for n in numbers):
            return Room(free=int(numbers[2]) * 1024, total=int(numbers[0]) * 1024)
    raise OrchestratorError(f"The machine answered {line[:80]!r} instead of its free disk space.")
