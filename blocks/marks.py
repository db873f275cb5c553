"""The marks of hired machines, which alone say whose a machine is.

A mark is written as one short text, which a provider stores as it can: a name, a tag, a label, or a
part of a job's name. It has lower-case letters, digits and hyphens only, which all of them take:

    to-<installation>-<run>-<attempt>        hired for a run: 8 and 32 hexadecimal digits, a number
    to-<installation>-<run>-<attempt>-<rank> another machine of the same attempt, ranks from 1
    to-<installation>-kept-<until>-<shape>   kept for the next job: Unix seconds, 8 digits

A machine with a mark of ours can be traced to the run that owns it without any record of our own; a
machine without one is never touched.
"""

from __future__ import annotations

import os
import re
import secrets
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from blocks.home import home
from trainer.contract.errors import ConfigError
from trainer.contract.files import fsync_directory

PREFIX = "to"
_TEXT = re.compile(
    rf"{PREFIX}-(?P<installation>[0-9a-f]{{8}})-"
    r"(?:(?P<run>[0-9a-f]{32})-(?P<attempt>[0-9]{1,4})(?:-(?P<rank>[1-9][0-9]{0,2}))?"
    r"|kept-(?P<until>[0-9]{1,12})-(?P<shape>[0-9a-f]{8}))"
)
_INSTALLATION = re.compile(r"[0-9a-f]{8}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """Whose a machine is: a run's, or waiting for the next job. `str` gives its text."""

    installation: str
    """8 hexadecimal digits; see `installation_id`."""
    run_id: UUID | None = None
    """The flow run that owns the machine; None: it is kept for the next job."""
    attempt: int = 0
    """Which of the run's machines it is, from 1; machines that train together share it."""
    rank: int = 0
    """Its rank among those machines; 0 speaks for them all."""
    kept_until: float = 0.0
    """Unix seconds until which a kept machine waits for a job."""
    shape: str = ""
    """What kind of machine a kept one is: 8 hexadecimal digits, equal for machines that can stand
    in for each other."""

    @classmethod
    def of_run(cls, run_id: UUID, attempt: int, rank: int = 0) -> Mark:
        """Return the mark of a run's machine.

        Args:
            run_id: the flow run.
            attempt: counted from 1.
            rank: among the machines of the attempt.
        """
        return cls(installation=installation_id(), run_id=run_id, attempt=attempt, rank=rank)

    @classmethod
    def kept(cls, until: float, shape: str) -> Mark:
        """Return the mark of a machine that waits for the next job until a Unix time."""
        return cls(installation=installation_id(), kept_until=float(int(until)), shape=shape)

    def __str__(self) -> str:
        # At most 53 characters, because providers limit names: Lambda Cloud to 64.
        whose = f"{PREFIX}-{self.installation}"
        if self.run_id is None:
            return f"{whose}-kept-{int(self.kept_until)}-{self.shape}"
        rank = f"-{self.rank}" if self.rank else ""
        return f"{whose}-{self.run_id.hex}-{self.attempt}{rank}"


def ours(text: str) -> Mark | None:
    """Return the mark that a text is, or None if this installation did not make it."""
    mark = read_mark(text)
    return mark if mark and mark.installation == installation_id() else None


def read_mark(text: str) -> Mark | None:
    """Return the mark that a text is, of whatever installation, or None if it is none."""
    # The whole text, so that nothing that merely begins like a mark is ever ended.
    match = _TEXT.fullmatch(text)
    if match is None:
        return None
    if match["run"]:
        return Mark(
            installation=match["installation"],
            run_id=UUID(match["run"]),
            attempt=int(match["attempt"]),
            rank=int(match["rank"] or 0),
        )
    return Mark(
        installation=match["installation"],
        kept_until=float(match["until"]),
        shape=match["shape"],
    )


def run_prefix(run_id: UUID) -> str:
    """Return how the texts of all marks of a run begin."""
    return f"{PREFIX}-{installation_id()}-{run_id.hex}-"


def installation_id() -> str:
    """Return the 8 hexadecimal digits that mark the machines of this installation.

    Raises:
        ConfigError: the file that holds them is damaged.
    """
    # Every machine of ours is recognised by this id. Without the file no machine that is hired now
    # would ever be found again, so it is written once and never replaced.
    path = home() / "installation"
    if not path.exists():
        _draw(path)
    text = path.read_text(encoding="ascii", errors="replace").strip()
    if not _INSTALLATION.fullmatch(text):
        raise ConfigError(
            f"{path} holds {text!r} and not the 8 hexadecimal digits of this installation.",
            "Write them into the file: they follow 'to-' in the name of every machine that was "
            "hired from here. If nothing is hired now, remove the file.",
        )
    return text


def _draw(path: Path) -> None:
    fresh = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        with fresh.open("x", encoding="ascii") as stream:
            stream.write(secrets.token_hex(4))
            stream.flush()
            os.fsync(stream.fileno())
        # A link appears whole and never replaces: of two processes that come first at the same
        # time one draws the id, and the other reads it.
        os.link(fresh, path)
        fsync_directory(path.parent)
    except FileExistsError:
        pass
    finally:
        fresh.unlink(missing_ok=True)
