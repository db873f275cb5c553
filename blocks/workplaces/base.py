"""What the flow asks of a place to train: a job directory, and a few verbs about it.

A name is that of a file in the job directory, such as `train.log` or `output/MANIFEST.json`. Where
the directory lies, on this computer, on a machine or in a bucket, and how a process is started
there, is the workplace's own affair.

No verb but `follow` and `run_lines` waits for ever: a place that can be reached and does nothing
that it is asked for is as good as one out of reach, and raises `ConnectionLost` too.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from blocks.machines.base import CommandResult as CommandResult
from blocks.machines.base import Transfer as Transfer
from blocks.machines.disk import Room as Room
from trainer.config import Limits, TrainingConfig
from trainer.config.store_urls import StoreUrl
from trainer.contract.errors import ConfigError, ConnectionLost
from trainer.contract.job_directory import Desired, Status, parse_status_text

Log = Callable[[str], None]
Carry = Callable[[], Awaitable[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a place was hired for."""

    gpu_count: int
    """How many GPUs; with 0 they are not checked."""
    gpu_type: str | None
    """Of which kind, loosely: see `blocks.machines.hardware.same_gpu`. None: any."""
    disk_gb: float | None
    """GiB that must be free, of which nine tenths will do. None: any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """How long a place may go without a word of ours before it ends itself."""

    term_seconds: float
    grace_seconds: float
    """How long its jobs may then take to save and stop."""

    @classmethod
    def of(cls, limits: Limits) -> Lease:
        """Return the lease that a job's limits ask for."""
        return cls(term_seconds=limits.lease_minutes * 60, grace_seconds=limits.stop_grace_seconds)

    @property
    def whole_seconds(self) -> float:
        """After which nothing trains there any more."""
        return self.term_seconds + self.grace_seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """What a place has that is ready."""

    jobs: str
    """The folder in which its job directories lie."""
    gpus: tuple[str, ...]
    """The name of each GPU."""
    disk_free_gb: float
    """GiB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileFacts:
    """The content of a file in short, and its size."""

    sha256: str
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Parcel:
    """A file or folder that a job needs where it trains."""

    field: str
    """Of the job file, such as dataset.path."""
    path: Path
    """What it names, here."""
    name: str
    """What it is called there too: a suffix says how to read a file."""
    key: str
    """Hexadecimal digits that change with any byte of it."""
    files: Mapping[str, Path]
    """Its files by their names in it; that of a single file is empty."""
    facts: Mapping[str, FileFacts]
    """What each holds, by the same names."""
    carry: Carry | None = None
    """Lets a machine fetch it by itself into a folder there, and returns that folder's absolute path,
    in which it has its own name; empty: it could not. What it leaves out, or spoils, is uploaded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Needed:
    """What has to be there so that the trainer can run."""

    training: TrainingConfig
    wheel: Callable[[], Path]
    """Makes the trainer's wheel, and returns it."""
    also: Sequence[str] = ()
    """Further requirements of this job, as pip takes them."""


class SourceChanged(ConfigError):
    """A file of this computer changed while it was brought to a workplace."""

    path: Path | None = None
    """Which."""

    @classmethod
    def of(cls, parcel: Parcel, name: str) -> Self:
        """Return the error of a file of a parcel."""
        error = cls(
            f"{parcel.field}: {parcel.files[name]} changed while it was uploaded.",
            "Run the job again when no program writes to it.",
        )
        error.path = parcel.files[name]
        return error


class NoAnswer(ConnectionLost):
    """A supervisor did not answer: what kills or starves its command may spare the training."""


class Workplace(ABC):
    """A place to train; use it as an async context manager, or call `close`."""

    is_home: ClassVar[bool] = False
    """Whether the job directory is on this computer, with the user's own files in their place."""
    carries: ClassVar[bool] = False
    """Whether the machine can carry files to and from a store by itself; see `trainer.courier`."""

    notice_command: str = ""
    """One line of sh by which the place learns that it is taken back, as `Provider` has it."""
    role_at: Callable[[StoreUrl], Mapping[str, Any] | None] = staticmethod(lambda url: None)
    """What the place must know of a store to use it by its own role; see `Provider.role_at`."""
    folder: str
    """The job directory, as one reads it in a log. Empty until the place has been ready once."""

    # The place -------------------------------------------------------------------------------

    @abstractmethod
    async def ready(self, wanted: Wanted, lease: Lease) -> Ready:
        """Return what the place has once it can be worked at; from then on its lease runs.

        Raises:
            BootError: it is not what was hired.
            ConnectionLost: it does not answer yet.
            HostKeyChanged: what answers is not what answered before.
        """

    @abstractmethod
    async def greet(self) -> None:
        """Return when the place answers.

        Raises:
            ConnectionLost: it does not.
            HostKeyChanged: what answers is not what answered before.
        """

    @abstractmethod
    async def renew(self, lease: Lease) -> None:
        """Renew the lease of the place and of the job directory for another term.

        Raises:
            OrchestratorError: the place refuses, for instance because its disk is read-only.
            ConnectionLost: it cannot be reached.
        """

    @abstractmethod
    async def vacate(self, seconds: float) -> None:
        """Leave nothing of the job there, and let the place wait for the next one.

        Args:
            seconds: after which it ends itself, unless somebody takes it over.
        """

    @abstractmethod
    async def close(self) -> None:
        """Let go of the place; what was started goes on. Closing twice is fine."""

    # Making it fit to train ------------------------------------------------------------------

    @abstractmethod
    async def install(self, needed: Needed, log: Log) -> str:
        """Make sure that the trainer can run, and that there is a job directory.

        Calling it again installs nothing.

        Args:
            needed: what has to be there.
            log: takes lines about the progress.

        Returns:
            The Python that the trainer runs with there.

        Raises:
            DependencyError: something is missing and cannot be installed; it says what.
            DiskFull: there is no room.
        """

    @abstractmethod
    async def run_lines(self, lines: Sequence[str], env: Mapping[str, str], log: Log) -> None:
        """Run the lines of a job's `setup` as one script that ends at the first failure.

        Every line of output goes to `log` as it comes. The lines may take as long as they do.

        Raises:
            DependencyError: naming the command that failed, its exit code and its last line.
            ConnectionLost: the place cannot be reached, or does nothing else meanwhile.
        """

    @abstractmethod
    async def bring(self, parcel: Parcel, log: Log) -> str:
        """Bring a file or folder there, unless it is there; return where the trainer finds it.

        Raises:
            SourceChanged: a file changed here meanwhile.
            DiskFull: there is no room there.
            IntegrityError: a file arrived with other content than it has here.
            ConnectionLost: the place cannot be reached; what arrived is kept.
        """

    # The training ----------------------------------------------------------------------------

    @abstractmethod
    async def start(self, python: str, env: Mapping[str, str]) -> bool:
        """Start the job's supervisor unless it is running; return whether it was running.

        Args:
            python: what `install` returned.
            env: variables for the trainer, tokens among them; they are never written to a file.

        Raises:
            GpusTaken: others have GPUs that `gpus.json` names; nothing was started.
            ConfigError: GPUs cannot be held there at all.
            NoAnswer: its command failed, which need not mean that nothing runs.
        """

    @abstractmethod
    async def examine(self, python: str) -> dict[str, Any]:
        """Return status, whether anything runs there, and the sizes of log, metrics and events.

        Raises:
            NoAnswer: its command failed, which says nothing of the training.
        """

    @abstractmethod
    async def call(self, python: str, env: Mapping[str, str], *words: str) -> CommandResult:
        """Run a module of the trainer there, by its name and arguments.

        Asked only where `Provider.has_network`: machines that train together have to find each other.

        Raises:
            ConnectionLost: it takes too long, or the place cannot be reached.
        """

    async def status(self) -> Status:
        """Return what the supervisor wrote last, which proves nothing: it may be dead."""
        return parse_status_text(await self.read("status.json"))

    async def ask(self, desired: Desired, reason: str, *, grace_seconds: float) -> None:
        """Write what trainer and supervisor shall do."""
        # A file, not a signal: it holds when neither of them runs yet, or when we die right after.
        request = {"desired": desired, "grace_seconds": grace_seconds, "reason": reason}
        await self.write("control.json", request)

    # The files of the job directory ------------------------------------------------------------

    @abstractmethod
    async def read(self, name: str) -> bytes | None:
        """Return the content of a small file, or None if it does not exist."""

    @abstractmethod
    async def replace(self, name: str, content: bytes) -> None:
        """Replace a small file in one step: a reader sees the old one or the new one."""

    async def write(self, name: str, value: Mapping[str, Any]) -> None:
        """Replace a file by a JSON object."""
        await self.replace(name, json.dumps(value, indent=1).encode())

    @abstractmethod
    async def listing(self, name: str) -> list[str]:
        """Return the sorted names in a folder; an empty list if it does not exist."""

    @abstractmethod
    async def size(self, name: str) -> int:
        """Return the bytes of a file; 0 if it does not exist."""

    @abstractmethod
    async def room(self) -> Room:
        """Return how much room the disk of the job directory has."""

    @abstractmethod
    async def remove(self, names: Sequence[str]) -> None:
        """Remove files and folders with all that is in them."""

    @abstractmethod
    async def begin(self, name: str, size: int) -> None:
        """Make a file that begins with a hole of so many bytes, which takes no time to send."""

    @abstractmethod
    async def put(self, local: Path, name: str) -> Transfer:
        """Put a file there; what `fetch` promises holds in the other direction."""

    @abstractmethod
    async def fetch(self, name: str, local: Path, *, limit: int | None = None) -> Transfer:
        """Fetch a file; see `blocks.machines.base.Machine.download`."""

    @abstractmethod
    def follow(self, name: str, offset: int = 0) -> AsyncGenerator[bytes, None]:
        """Yield what a file holds from a byte on, and what is appended, for ever.

        See `blocks.machines.base.Machine.follow`.
        """

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
