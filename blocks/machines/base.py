"""What the orchestrator asks of a machine: six verbs, the same near and far.

Paths on the machine are absolute and given as text; local paths are `Path`. No verb goes through
a shell. Everything a job needs beyond the verbs is built on them here, once.

No verb but `follow` waits for ever: a machine that can be reached and whose commands hang is as
good as one that cannot be reached, and raises `ConnectionLost` too.
"""

from __future__ import annotations

import asyncio
import tempfile
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from uuid import uuid4

from trainer.contract.errors import ConnectionLost, OrchestratorError

CAPTURE_LIMIT = 1 << 20  # bytes kept of each output of a command, from its end
FOLLOW_CHUNK = 256 << 10  # bytes at most that `follow` yields at once
FOLLOW_SECONDS = 0.1  # between two looks at a file that does not grow
CANNOT_START = 127  # exit code of a command that cannot be started, as shells have it
RUN_SECONDS = 60.0  # for a command that is given no limit of its own, and for starting one


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandResult:
    """How a command ended."""

    exit_code: int
    """Negative when a signal ended it."""
    stdout: str
    """The last MiB of it; what is not UTF-8 is replaced."""
    stderr: str
    """The last MiB of it; what is not UTF-8 is replaced."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """A file that arrived whole."""

    bytes: int
    sha256: str
    """Of the whole file where it arrived: 64 lower-case hexadecimal digits."""
    resumed: int = 0
    """How many of the bytes were there before, from a transfer that was cut short."""


@asynccontextmanager
async def small(seconds: float | None, name: str, where: str) -> AsyncIterator[None]:
    """Limit a command in time: to `seconds`, or to what any small one may take.

    Raises:
        TimeoutError: it took longer than `seconds`.
        ConnectionLost: there are no `seconds`, and it took longer than `RUN_SECONDS`.
    """
    try:
        async with asyncio.timeout(RUN_SECONDS if seconds is None else seconds):
            yield
    except TimeoutError:
        if seconds is not None:
            raise
        raise ConnectionLost(
            f"{where} does not run {name!r} within {RUN_SECONDS:g} s.",
            "Look at the machine: its disk may hang, or its memory be used up.",
        ) from None


class Machine(ABC):
    """A connection; use it as an async context manager, or call `close`."""

    @abstractmethod
    async def run(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - the group must die before it is raised
    ) -> CommandResult:
        """Run a command to its end and return how it ended.

        It gets its own process group, and whatever is left of the group dies with it: at its
        end, on timeout and on cancellation. A command that cannot be started ends with exit
        code 127 and the reason in `stderr`.

        Args:
            command: the program and its arguments; its standard input is empty.
            env: variables on top of the machine's own.
            cwd: absolute path of the folder to run in.
            timeout: seconds, for a command whose own slowness is expected. None: it is a small
                one, and a machine that does not run it within a minute is out of reach.

        Raises:
            TimeoutError: it took longer than `timeout`; it is dead now.
            ConnectionLost: the machine cannot be reached, or does not run even a small command.
        """

    @abstractmethod
    async def start(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
    ) -> None:
        """Start a command that outlives this connection and this process.

        It is the leader of its own session, reads nothing, and its output goes nowhere: it
        speaks through files.

        Raises:
            DependencyError: it cannot be started.
            ConnectionLost: the machine cannot be reached, or does not start it within a minute.
        """

    @abstractmethod
    def follow(self, path: str, offset: int = 0) -> AsyncGenerator[bytes, None]:
        """Yield what a file holds from byte `offset` on, and what is appended, for ever.

        It waits for the file to appear. A chunk has at most 256 KiB and comes at most 0.2 s
        after it was written (on a connection: plus its round trip). Stop by closing the
        generator or cancelling the task. It has no limit of time, because a file need not grow:
        whoever follows one also asks something else now and then.

        Raises:
            ConnectionLost: the machine cannot be reached; follow again from the offset reached.
        """

    @abstractmethod
    async def upload(self, local: Path, remote: str) -> Transfer:
        """Put a file on the machine; what `download` promises holds in the other direction."""

    @abstractmethod
    async def download(self, remote: str, local: Path, *, limit: int | None = None) -> Transfer:
        """Fetch a file; `local` appears whole, synced to disk, or not at all.

        What arrived is kept in `<name>.part` until the file is whole; a later call goes on from
        there and hashes what it finds, so that the SHA-256 covers every byte. Compare it with
        the one you expect: a source that changed meanwhile shows there only. Folders are made.
        One transfer to one place at a time.

        Args:
            remote: absolute path on the machine.
            local: where it goes.
            limit: bytes; a longer file is refused before any of it comes.

        Raises:
            FileNotFoundError: there is no such file.
            IntegrityError: it is longer than `limit`.
            DiskFull: it does not fit.
            ConnectionLost: the machine cannot be reached; what arrived is kept.
        """

    @abstractmethod
    async def run_shell(
        self,
        lines: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str,
        log: Callable[[str], None],
    ) -> None:
        """Run the lines of a job's `setup` as one bash script that ends at the first failure.

        Every line of output goes to `log` as it comes.

        Raises:
            DependencyError: naming the command that failed, its exit code and its last line.
            ConnectionLost: the machine cannot be reached, or runs nothing else meanwhile. The
                lines themselves may take as long as they do.
        """

    @abstractmethod
    async def close(self) -> None:
        """End the connection; what was started goes on. Closing twice is fine."""

    async def read(self, path: str) -> bytes | None:
        """Return the content of a small file, or None if it does not exist."""
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / "copy"
            try:
                await self.download(path, copy)
            except FileNotFoundError:
                return None
            return copy.read_bytes()

    async def write(self, path: str, content: bytes) -> None:
        """Replace a small file in one step: a reader sees the old one or the new one.

        Raises:
            OrchestratorError: the machine refused.
        """
        # In the same folder as its target: a rename is atomic only within one file system.
        fresh = f"{path}.{uuid4().hex}.new"  # unique, so never the rest of an earlier attempt
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / "copy"
            copy.write_bytes(content)
            await self.upload(copy, fresh)
        result = await self.run(["mv", "-f", "--", fresh, path])
        if result.exit_code:
            raise OrchestratorError(f"{path} cannot be replaced: {result.stderr.strip()}.")

    async def listing(self, path: str) -> list[str]:
        """Return the sorted names in a folder; an empty list if it does not exist."""
        result = await self.run(["ls", "-1A", "--", path])
        return sorted(result.stdout.splitlines())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
