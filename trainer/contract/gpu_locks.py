"""Who has which GPU of this computer: a kernel lock for each. Standard library only, Linux only.

    <folder>/GPU-…             one file for each GPU, whose bytes stand for its memory, one for a MiB
    <folder>/GPU-….0.json      who has locked it from that byte on, for people to read
    <folder>/GPU-….sick        why nobody is to have it; see `trainer.contract.gpu_files`

A job that has a GPU for itself locks all bytes of its file, one that shares it as many as the MiB that
it may use. So the kernel sees to it that no GPU, and no MiB, is anybody's twice. The lock belongs to the
open file (F_OFD_SETLK of fcntl(2)): whoever inherits the descriptor holds it too, and it is free exactly
when supervisor and trainer are both gone, however they went. Nothing has to be tidied up, and a note
that is older than the lock means nothing.
"""

from __future__ import annotations

import errno
import fcntl
import getpass
import json
import os
import random
import struct
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from trainer.contract.errors import ConfigError, GpusTaken
from trainer.contract.gpu_files import (
    IDENTIFIER,
    file_of,
    opened,
    read_record,
    sickness,
    write_text,
)

MIB_PER_GIB = 1024
PATIENCE = 0.5  # seconds for one who found half of what it needs to let go of it again
MAX_GPUS = 64
# struct flock of fcntl(2): type, whence, start, length (0: to the end, however far), process, padding
_FLOCK = "hhqqi0q"


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocation:
    """The GPUs that one run has."""

    uuids: tuple[str, ...] = ()
    share_gb: float | None = None
    """GiB of the memory of each, the rest of which others may have; None: all of it, for itself."""
    vram_gb: float = 0.0
    """GiB of each that may be shared out in all; only for a share."""

    @property
    def variables(self) -> dict[str, str]:
        """What lets a program see these GPUs alone; nothing where none are named."""
        return {"CUDA_VISIBLE_DEVICES": ",".join(self.uuids)} if self.uuids else {}

    @property
    def mib(self) -> int:
        """The size of a share; 0: the whole GPU."""
        return 0 if self.share_gb is None else max(1, round(self.share_gb * MIB_PER_GIB))


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Who has a GPU, as it says of itself; what it does not say is empty."""

    run: str = ""
    """The id of the flow run."""
    name: str = ""
    """Of the job, or the command."""
    pid: int = 0
    user: str = ""
    since: str = ""
    """UTC, ISO 8601."""
    share_gb: float | None = None
    """GiB; None: all of it."""

    def __str__(self) -> str:
        who = f"{self.name or 'a process'} of {self.user or 'somebody'}"
        who += (
            f" (run {self.run[:8]})" if self.run else f" (process {self.pid})" if self.pid else ""
        )
        part = "" if self.share_gb is None else f", {self.share_gb:g} GiB of it"
        return f"{who}{part}{f', since {self.since[:16]}' if self.since else ''}"

    @classmethod
    def here(cls, *, run: str = "", name: str = "") -> Self:
        """Return this process as a holder, from now on."""
        try:
            user = getpass.getuser()
        except (KeyError, OSError):  # a container's user need not have a name
            user = str(os.getuid())
        since = datetime.now(UTC).isoformat(timespec="seconds")
        return cls(run=run, name=name, pid=os.getpid(), user=user, since=since)


@dataclass(slots=True)
class Held:
    """The locks of one run. Closing them frees the GPUs, unless a child inherited them."""

    allocation: Allocation
    holder: Holder
    descriptors: list[int] = field(default_factory=list)
    """To be inherited by whatever uses the GPUs."""
    notes: list[Path] = field(default_factory=list)
    """The files that say who has them."""

    def sign(self, holder: Holder) -> None:
        """Say who has them now, when it is not the process that took them."""
        self.holder = replace(holder, share_gb=self.allocation.share_gb)
        for path in self.notes:
            _write_note(path, self.holder)

    def keep(self) -> None:
        """Keep the files young: where the folder is /tmp, old ones are removed."""
        for descriptor in self.descriptors:
            with suppress(OSError):
                os.utime(descriptor)

    def close(self) -> None:
        """Let go of them; twice is fine."""
        while self.descriptors:
            os.close(self.descriptors.pop())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def take(allocation: Allocation, holder: Holder, *, patience: float = PATIENCE) -> Held:
    """Take all GPUs of an allocation at once, or none.

    Raises:
        GpusTaken: others have some of them, or one is out of use; it says which and who.
        ConfigError: the folder of the locks cannot be used.
    """
    for uuid in allocation.uuids:
        if reason := sickness(uuid):
            raise GpusTaken(f"{uuid} is out of use: {reason}.")
    deadline = time.monotonic() + patience
    while True:
        held = Held(allocation, replace(holder, share_gb=allocation.share_gb))
        taken: str | None = None
        try:
            # By one order for all: of those that meet, the one that is furthest always gets all.
            for uuid in sorted(set(allocation.uuids)):
                if not _take_one(held, uuid):
                    taken = uuid
                    break
        except BaseException:
            held.close()
            raise
        if taken is None:
            return held
        held.close()
        if time.monotonic() >= deadline:
            raise GpusTaken(_who_has(taken, allocation))
        # Who got half of what it needs lets go of it within a moment, and so did we.
        time.sleep(random.uniform(0.002, 0.02))  # noqa: S311 - nothing secret


def holders(uuid: str) -> list[Holder]:
    """Return who has a GPU now; a part of it each if it is shared."""
    with suppress(FileNotFoundError):
        descriptor = os.open(file_of(uuid), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            found = [(_note(uuid, start), length) for start, length in _locked(descriptor)]
        finally:
            os.close(descriptor)
        # A share may lie in several pieces, each with a note of its own.
        merged: dict[tuple[str, int, str], Holder] = {}
        for holder, length in found:
            gib = None if length == 0 else length / MIB_PER_GIB
            key = (holder.run, holder.pid, holder.since)
            if gib is not None and key in merged:
                gib += merged[key].share_gb or 0.0
            merged[key] = replace(holder, share_gb=gib)
        return list(merged.values())
    return []


def read_allocation(record: Mapping[str, Any] | None) -> Allocation:
    """Return the GPUs that a job directory's `gpus.json` names; None: there is no such file.

    Raises:
        ConfigError: it is not what we wrote.
    """
    if record is None:
        return Allocation()
    uuids, share = record.get("uuids"), record.get("share_gb")
    vram = record.get("vram_gb") or None
    usable = (
        isinstance(uuids, list)
        and len(uuids) <= MAX_GPUS
        and all(isinstance(uuid, str) and IDENTIFIER.fullmatch(uuid) for uuid in uuids)
        and (share is None or _is_size(share))
        and (vram is None or _is_size(vram))
        and (share is None or (vram is not None and share <= vram))
    )
    if not usable or not isinstance(uuids, list):
        raise ConfigError(f"gpus.json: {json.dumps(dict(record))[:300]} does not name GPUs.")
    return Allocation(
        uuids=tuple(uuids),
        share_gb=None if share is None else float(share),
        vram_gb=float(vram or 0.0),
    )


def _is_size(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e6


def _who_has(uuid: str, allocation: Allocation) -> str:
    found = holders(uuid)
    if allocation.share_gb is not None and all(one.share_gb is not None for one in found):
        free = allocation.vram_gb - sum(one.share_gb or 0.0 for one in found)
        return (
            f"{uuid} has {max(0.0, free):.1f} GiB left to share and {allocation.share_gb:g} are "
            f"asked for; it has {'; '.join(map(str, found)) or 'nobody'}."
        )
    return f"{uuid} is taken by {'; '.join(map(str, found)) or 'another job'}."


# One file --------------------------------------------------------------------------------------


def _take_one(held: Held, uuid: str) -> bool:
    """Lock a GPU, or a share of it; return whether that succeeded."""
    path = file_of(uuid)
    descriptor = opened(path)
    held.descriptors.append(descriptor)
    allocation = held.allocation
    if not allocation.mib:
        pieces = [(0, 0)] if _lock(descriptor, 0, 0) else []
    else:
        pieces = _take_share(descriptor, allocation.mib, round(allocation.vram_gb * MIB_PER_GIB))
    if not pieces:
        return False
    # Somebody has removed the file: it excludes nobody any more.
    with suppress(FileNotFoundError):
        facts = path.stat()
        if os.path.samestat(facts, os.fstat(descriptor)):
            for start, _ in pieces:
                note = path.with_name(f"{uuid}.{start}.json")
                held.notes.append(note)
                _write_note(note, held.holder)
            return True
    return False


def _take_share(descriptor: int, mib: int, in_all: int) -> list[tuple[int, int]]:
    """Lock that many bytes, wherever they are free; return the pieces, none where it is too full."""
    pieces: list[tuple[int, int]] = []
    place = 0
    for start, length in [*sorted(_locked(descriptor)), (in_all, 1)]:
        # Whoever counts with more memory may have a lock beyond what is shared out here.
        room = min(min(start, in_all) - place, mib - sum(size for _, size in pieces))
        if room > 0:
            if not _lock(descriptor, place, room):  # somebody came in between
                return []
            pieces.append((place, room))
        if length == 0:
            break
        place = max(place, start + length)
    return pieces if sum(size for _, size in pieces) == mib else []


def _locked(descriptor: int, start: int = 0, length: int = 0) -> Iterator[tuple[int, int]]:
    """Yield start and length of what others have locked; length 0: to the end."""
    asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, start, length, 0)
    kind, _, first, size, _ = struct.unpack(_FLOCK, _ofd(descriptor, "F_OFD_GETLK", asked))
    if kind == fcntl.F_UNLCK:
        return
    yield first, size
    # It names one of them: look before it, and behind it.
    if first > start:
        yield from _locked(descriptor, start, first - start)
    behind = first + size
    if size and not length:
        yield from _locked(descriptor, behind, 0)
    elif size and behind < start + length:
        yield from _locked(descriptor, behind, start + length - behind)


def _lock(descriptor: int, start: int, length: int) -> bool:
    wanted = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, start, length, 0)
    try:
        _ofd(descriptor, "F_OFD_SETLK", wanted)
    except OSError as error:
        if error.errno in {errno.EAGAIN, errno.EACCES}:
            return False
        raise
    return True


def _ofd(descriptor: int, command: str, argument: bytes) -> bytes:
    try:
        return fcntl.fcntl(descriptor, getattr(fcntl, command), argument)
    except (AttributeError, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise
        raise ConfigError(
            f"{sys.platform} has no locks that belong to an open file, by which GPUs are held.",
            "Use Linux 3.15 or newer on a local file system.",
        ) from error


# Notes -----------------------------------------------------------------------------------------


def _write_note(path: Path, holder: Holder) -> None:
    # Nothing depends on it: a full disk, or a note that cannot be changed, keeps no job from training.
    with suppress(OSError, ConfigError):
        write_text(path, json.dumps(asdict(holder)))


def _note(uuid: str, start: int) -> Holder:
    return holder_in(read_record(file_of(uuid).with_name(f"{uuid}.{start}.json")))


def holder_in(record: Mapping[str, Any]) -> Holder:
    """Return what a note says; any user can write one, so it is shown and nothing else."""

    def text(name: str) -> str:
        value = str(record.get(name) or "")[:200]
        return value if value.isprintable() else "?"

    pid = record.get("pid")
    return Holder(
        run=text("run"),
        name=text("name"),
        pid=pid if isinstance(pid, int) else 0,
        user=text("user"),
        since=text("since"),
    )
