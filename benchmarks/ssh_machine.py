"""A machine behind a real OpenSSH sshd on this computer, for what is measured over SSH.

It is the one that the local clouds of the tests hand out, so `tests` must be importable, as it is
from a source folder that is installed with `-e`.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from common import Place, fail

from blocks.keys import MachineKeys
from blocks.machines.ssh import SshMachine
from tests.clouds.machines import SshdMachine


class Remote:
    """One machine, and the two ways to it: the product's own, and OpenSSH's programs."""

    def __init__(self, sshd: SshdMachine, keys: MachineKeys) -> None:
        self.home = sshd.home
        """The home folder on the machine; it is a folder here, too."""
        self._sshd = sshd
        self._keys = keys

    def connect(self) -> SshMachine:
        """Return a fresh machine of the product; it connects when it is used."""
        return SshMachine(
            self._sshd.address,
            port=self._sshd.port,
            user=self._sshd.user,
            private_key=self._keys.private_key,
            host_key=self._keys.host_key,
        )

    def ssh(self, command: str, *options: str) -> list[str]:
        """Return OpenSSH's command line that runs `command` there."""
        words = ["ssh", *self._options(), *options, "-p", str(self._sshd.port)]
        return [*words, f"{self._sshd.user}@{self._sshd.address}", command]

    def scp(self, source: object, target: object, *options: str) -> list[str]:
        """Return scp's command line; the path on the machine begins with a colon."""
        ends = [
            f"{self._sshd.user}@{self._sshd.address}{end}" if str(end).startswith(":") else str(end)
            for end in (source, target)
        ]
        return ["scp", "-q", *self._options(), *options, "-P", str(self._sshd.port), *ends]

    def _options(self) -> list[str]:
        """Return what both programs need: the one key, and nothing of this user's own."""
        settings = ("IdentitiesOnly=yes", "StrictHostKeyChecking=no", "LogLevel=ERROR")
        known = self._keys.private_key.with_name("known_by_openssh")
        words = ["-F", "/dev/null", "-i", str(self._keys.private_key)]
        for setting in (*settings, f"UserKnownHostsFile={known}"):
            words += ["-o", setting]
        return words


@contextmanager
def remote_machine(here: Place) -> Iterator[Remote]:
    """Yield a machine that runs; it and its processes are gone afterwards."""
    os.environ.update(here.environment)  # where the keys lie
    keys = MachineKeys("benchmark")
    with SshdMachine(here.folder / "machine", public_keys=[keys.public_key()]) as sshd:
        yield Remote(sshd, keys)


def finished(command: list[str]) -> str:
    """Run a command to its good end and return what it printed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        fail(f"exit code {done.returncode} of {command!r}:\n{done.stderr[-2000:]}")
    return done.stdout
