"""The names of hired machines, which alone say whose a machine is.

    to-<installation>-<run>-<attempt>        hired for a run: 8 and 32 hexadecimal digits, a number
    to-<installation>-<run>-<attempt>-<node> another machine of the same attempt, nodes from 1
    to-<installation>-kept-<until>-<shape>   kept for the next job: Unix seconds, 8 digits

A machine with our prefix can be traced to the run that owns it without any record of our own; a
machine without it is never touched.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from uuid import UUID

from blocks.home import home
from trainer.contract.files import fsync_directory

PREFIX = "to"
_NAME = re.compile(
    rf"{PREFIX}-(?P<installation>[0-9a-f]{{8}})-"
    r"(?:(?P<run>[0-9a-f]{32})-(?P<attempt>[0-9]{1,4})(?:-(?P<node>[1-9][0-9]{0,2}))?"
    r"|kept-(?P<until>[0-9]{1,12})-(?P<shape>[0-9a-f]{8}))"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class HiredName:
    """A name that this installation gave."""

    run_id: UUID | None = None
    """The flow run that owns the machine; None: it is kept for the next job."""
    attempt: int = 0
    """Which of the run's machines it is, from 1; machines that train together share it."""
    node: int = 0
    """Its rank among those machines; 0 speaks for them all."""
    kept_until: float = 0.0
    """Unix seconds until which a kept machine waits for a job."""
    shape: str = ""
    """What kind of machine a kept one is; see `kept_name`."""


def installation_id() -> str:
    """Return the 8 hexadecimal digits that mark the machines of this installation."""
    # Every machine of ours is recognised by this id. Without the file no machine that is hired now
    # would ever be found again, so it is written once and never replaced.
    path = home() / "installation"
    try:
        # Exclusively: of two processes that come first at the same time, one draws the id.
        with path.open("x", encoding="ascii") as stream:
            stream.write(secrets.token_hex(4))
        fsync_directory(path.parent)
    except FileExistsError:
        pass
    return path.read_text(encoding="ascii").strip()


def run_prefix(run_id: UUID) -> str:
    """Return how the names of all machines of a run begin."""
    return f"{PREFIX}-{installation_id()}-{run_id.hex}-"


def run_name(run_id: UUID, attempt: int, node: int = 0) -> str:
    """Return the name of a run's machine, at most 53 characters.

    Args:
        run_id: the flow run.
        attempt: counted from 1.
        node: its rank among the machines of the attempt.
    """
    # Short, because providers limit names: Lambda Cloud to 64 characters.
    name = f"{run_prefix(run_id)}{attempt}"
    return f"{name}-{node}" if node else name


def kept_name(until: float, shape: str) -> str:
    """Return the name of a machine that waits for the next job until a Unix time.

    Args:
        until: Unix seconds.
        shape: 8 hexadecimal digits; equal for machines that can stand in for each other.
    """
    return f"{PREFIX}-{installation_id()}-kept-{int(until)}-{shape}"


def ours(name: str) -> HiredName | None:
    """Return what a machine's name says, or None if this installation did not give it."""
    # The whole name, so that nothing that merely begins like one of ours is ever ended.
    match = _NAME.fullmatch(name)
    if match is None or match["installation"] != installation_id():
        return None
    if match["run"]:
        return HiredName(
            run_id=UUID(match["run"]),
            attempt=int(match["attempt"]),
            node=int(match["node"] or 0),
        )
    return HiredName(kept_until=float(match["until"]), shape=match["shape"])
