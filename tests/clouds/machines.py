"""A rented machine: a private OpenSSH sshd on loopback with a home folder of its own."""

from __future__ import annotations

import getpass
import itertools
import os
import secrets
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self
from uuid import uuid4

import asyncssh
import psutil

from trainer.contract.gpu_files import FOLDER_VARIABLE

SSHD = "/usr/sbin/sshd"
MARKER = "TEST_MACHINE"  # a variable that every process of a machine inherits
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SECONDS = 120.0  # for sshd to listen, and for processes to die
NO_NETWORK = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
PORTS = range(10_000, 32_000)  # below those that Linux gives to outgoing connections
_ports = itertools.count(secrets.randbelow(len(PORTS)))  # several processes look for ports at once


@dataclass(frozen=True)
class Profile:
    """What is on a machine when it is handed over."""

    gpus: tuple[str, ...] = ()
    """The lines that its `nvidia-smi --query-gpu` prints; without any, it has no nvidia-smi."""
    python: bool = True
    """Whether the Python of these tests, with torch, is on its PATH: a warm image."""
    environment: Mapping[str, str] = field(default_factory=dict)


class SshdMachine:
    """One machine; its user is the current user. As a context manager: started, then killed."""

    def __init__(
        self,
        folder: Path,
        *,
        public_keys: Sequence[str],
        profile: Profile | None = None,
        address: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self.address = address
        self.port = port or free_port(address)
        self.user = getpass.getuser()
        self.home = folder / "home"
        self._folder = folder
        self._marker = uuid4().hex
        self._sshd: subprocess.Popen[bytes] | None = None
        self.home.mkdir(parents=True, exist_ok=True)
        self._authorized.write_text("")
        for key in public_keys:
            self.authorize(key)
        self._furnish(profile or Profile())

    def start(self) -> None:
        """Start sshd; return once it listens."""
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # as its own service would
        log = (self._folder / "sshd.log").open("ab")
        with log:
            self._sshd = subprocess.Popen(
                [SSHD, "-D", "-e", "-f", self._folder / "sshd_config"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + SECONDS
        while not self._answers():
            if self._sshd.poll() is not None or time.monotonic() > deadline:
                said = (self._folder / "sshd.log").read_text()[-2000:]
                raise RuntimeError(f"sshd does not listen on port {self.port}:\n{said}")
            time.sleep(0.01)

    def hang(self) -> None:
        """From now on sshd answers, and no command ever does; what was started goes on."""
        assert self._sshd
        with (self._folder / "sshd_config").open("a") as config:
            config.write("ForceCommand exec sleep 600\n")
        self._sshd.send_signal(signal.SIGHUP)  # it executes itself again, under the same number
        deadline = time.monotonic() + SECONDS
        while "restarting" not in (said := (self._folder / "sshd.log").read_text()):
            assert time.monotonic() < deadline, said
            time.sleep(0.01)
        self._cut(psutil.Process(self._sshd.pid))
        while not self._answers():
            assert time.monotonic() < deadline, "sshd does not listen again"
            time.sleep(0.01)

    def stop(self) -> None:
        """End sshd and cut all connections; what was started on the machine goes on."""
        if self._sshd is None:
            return
        listener = psutil.Process(self._sshd.pid)
        with suppress(psutil.NoSuchProcess):
            listener.suspend()  # so that no connection is accepted while they are cut
            self._cut(listener)
        self._sshd.kill()
        self._sshd.wait()
        self._sshd = None

    def kill(self) -> None:
        """End the machine as a power cut does: sshd and every process on it."""
        self.stop()
        kill_all(self.processes)

    def _cut(self, listener: psutil.Process) -> None:
        for process in listener.children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if process.name().startswith("sshd"):
                    process.kill()

    def authorize(self, public_key: str) -> None:
        """Accept a key for logins from now on."""
        with self._authorized.open("a") as stream:
            stream.write(public_key.strip() + "\n")

    def processes(self) -> list[int]:
        """Return what runs on the machine, without sshd itself."""
        return sorted(with_variable(f"{MARKER}={self._marker}".encode()))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def _authorized(self) -> Path:
        return self._folder / "authorized_keys"

    def _furnish(self, profile: Profile) -> None:
        programs = self._folder / "bin"
        programs.mkdir(exist_ok=True)
        if profile.gpus:
            write_nvidia_smi(programs / "nvidia-smi", profile.gpus)
        host_key = self._folder / "host_key"
        if not host_key.exists():
            asyncssh.generate_private_key("ssh-ed25519").write_private_key(host_key)
            host_key.chmod(0o600)
        path = [str(programs), SYSTEM_PATH]
        if profile.python:
            path.insert(1, str(Path(sys.executable).parent))
        environment = NO_NETWORK | {
            "HOME": str(self.home),
            "PATH": ":".join(path),
            MARKER: self._marker,
            # A test keeps to GPU locks of its own, and so do its machines.
            **{name: os.environ[name] for name in [FOLDER_VARIABLE] if name in os.environ},
            **profile.environment,
        }
        (self._folder / "sshd_config").write_text(
            f"ListenAddress {self.address}:{self.port}\n"
            f'HostKey "{host_key}"\n'
            f'AuthorizedKeysFile "{self._authorized}"\n'
            "PidFile none\n"
            "StrictModes no\n"  # a test's folder may lie below one that others can write to
            "UsePAM no\n"
            "UseDNS no\n"
            "PermitRootLogin prohibit-password\n"
            "PasswordAuthentication no\n"
            "KbdInteractiveAuthentication no\n"
            "PrintMotd no\n"
            "LogLevel VERBOSE\n"
            "Subsystem sftp internal-sftp\n"
            f"SetEnv {' '.join(_quoted(*entry) for entry in environment.items())}\n"
        )

    def _answers(self) -> bool:
        with (
            suppress(OSError),
            socket.create_connection((self.address, self.port), timeout=5) as connection,
        ):
            return connection.recv(4) == b"SSH-"
        return False


def free_port(address: str = "127.0.0.1") -> int:
    """Return a port that no process listens on, and that no outgoing connection will be given.

    It is bound later, so it must stay free until then.
    """
    while True:
        port = PORTS[next(_ports) % len(PORTS)]
        with socket.socket() as probe, suppress(OSError):
            probe.bind((address, port))
            return port


def _quoted(name: str, value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{name}={escaped}"'


def write_nvidia_smi(path: Path, gpus: Sequence[str]) -> None:
    """Write a program that prints what `nvidia-smi` prints of these GPUs."""
    listed = [f"GPU {index}: {line.split(',')[0]}" for index, line in enumerate(gpus)]
    path.write_text(
        "#!/bin/sh\n"
        f'if [ "$1" = -L ]; then printf "%s\\n" {shlex.join(listed)}\n'
        f'else printf "%s\\n" {shlex.join(gpus)}; fi\n'
    )
    path.chmod(0o755)


def kill_all(processes: Callable[[], Sequence[int]]) -> None:
    """Kill processes until there is none.

    Args:
        processes: returns those that are there now: what dies may have started another one.
    """
    deadline = time.monotonic() + SECONDS
    while left := processes():
        if time.monotonic() > deadline:
            raise RuntimeError(f"processes {left} of the machine do not die")
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


def with_variable(entry: bytes) -> Iterator[int]:
    """Yield the processes that were started with a variable."""
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if entry in (folder / "environ").read_bytes().split(b"\0"):
                yield int(folder.name)
