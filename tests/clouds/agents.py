"""A machine without an address: the agent on this computer, with a home folder of its own."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Self
from uuid import uuid4

from blocks.machines.mailbox.packing import packed, variables, way_of
from tests.clouds.machines import MARKER, SECONDS, SYSTEM_PATH, kill_all, with_variable
from trainer.config.store_urls import parse_store_url

if TYPE_CHECKING:
    from blocks.machines.mailbox import MailboxMachine
    from blocks.stores.bucket import Bucket

MAILBOX = "TRAINING_ORCHESTRATOR_MAILBOX"
LOOK_SECONDS = 0.02  # between two looks of agent and caller; a bucket far away is given longer
QUICK = {"TRAINING_ORCHESTRATOR_POLL": f"{LOOK_SECONDS} {LOOK_SECONDS}"}


class AgentMachine:
    """A container or machine on which the agent is the first process. Started once, then killed."""

    def __init__(self, folder: Path, environment: Mapping[str, str], path: str = "") -> None:
        """Make its home.

        Args:
            folder: for all that is its own.
            environment: what its agent is started with.
            path: what comes first on its PATH.
        """
        self.home = folder / "home"
        self.home.mkdir(parents=True, exist_ok=True)
        self.log = folder / "agent.log"
        self._file = folder / "agent.pyz"
        self._marker = uuid4().hex
        python = str(Path(sys.executable).parent)
        self._environment = {
            "PATH": ":".join(filter(None, (path, python, SYSTEM_PATH))),
            "HOME": str(self.home),
            "LANG": "C.UTF-8",
            MARKER: self._marker,
            **QUICK,
            **environment,
        }
        options = json.loads(environment.get(f"{MAILBOX}_OPTIONS", "{}"))
        self._way = way_of(environment.get(MAILBOX, ""), options)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, command: Sequence[str] = ()) -> None:
        """Start its first process, which is the agent unless another command is given."""
        if not command:
            self._file.write_bytes(packed(self._way))
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                list(command) or [sys.executable, self._file],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
                cwd=self.home,
                start_new_session=True,
            )

    def signal(self, number: int) -> None:
        """Send its first process a signal, as a provider does to a container."""
        if self.process and self.process.poll() is None:
            self.process.send_signal(number)

    def processes(self) -> list[int]:
        """Return what runs on it."""
        return sorted(with_variable(f"{MARKER}={self._marker}".encode()))

    def kill(self) -> None:
        """End every process of it."""
        kill_all(self.processes)
        if self.process:
            self.process.wait(SECONDS)


class Mailbox:
    """A folder as a bucket, and the machine that looks into it. As a context manager: it runs."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "bucket"
        self._folder.mkdir(parents=True)
        self.agent = AgentMachine(folder, self.environment())
        self.base = self.agent.home / ".training-orchestrator"

    def environment(self) -> Mapping[str, str]:
        """Return what the agent is started with."""
        return variables(f"file://{self._folder}")

    def is_up(self) -> bool:
        """Whether the agent has said that it is there."""
        return (self._folder / "alive").exists()

    def bucket(self) -> Bucket:
        """Return the mailbox."""
        from blocks.stores.bucket import Bucket

        return Bucket.at(parse_store_url(str(self._folder)))

    def machine(self) -> MailboxMachine:
        """Return a connection that does not dawdle; when it is there, the agent has come up."""
        from blocks.machines.mailbox import MailboxMachine

        deadline = time.monotonic() + SECONDS
        while not self.is_up():
            if time.monotonic() > deadline:
                raise RuntimeError(f"the agent does not come up: {self.agent.log.read_text()}")
            time.sleep(0.01)
        return MailboxMachine(self.bucket(), linger=0.0, longest_poll=0.1)

    def __enter__(self) -> Self:
        self.agent.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.agent.kill()


class SignedMailbox(Mailbox):
    """A bucket of S3 to which the machine has no key."""

    def __init__(self, folder: Path) -> None:
        from tests.clouds.plain_s3 import PlainS3

        self.s3 = PlainS3("models")
        self.s3.__enter__()
        super().__init__(folder)

    def environment(self) -> Mapping[str, str]:
        from blocks.machines.mailbox.grants import Grants

        async def begin() -> str:
            return await Grants(self.bucket()).begin()

        with ThreadPoolExecutor() as pool:  # a test may have a loop of its own here
            return variables(pool.submit(lambda: asyncio.run(begin())).result())

    def is_up(self) -> bool:
        return self.s3.content("mailboxes/one/alive") is not None

    def bucket(self) -> Bucket:
        from blocks.stores.access import Access
        from blocks.stores.bucket import Bucket

        key = {"key_id": self.s3.key_id, "secret": self.s3.secret}
        access = Access(endpoint=self.s3.url, region="eu-west-1", **key)
        return Bucket.at(parse_store_url("s3://models/mailboxes/one"), access)

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        self.s3.__exit__()
