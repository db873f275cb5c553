"""Two machines that one owns, and how a test gets at what is on them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from blocks.keys import MachineKeys
from tests.clouds.machines import SshdMachine
from trainer.contract.job_directory import JobDirectory


class TwoHosts:
    """Two hosts, by rank once a job has taken both."""

    def __init__(self, folder: Path, public_key: str) -> None:
        self.machines = [SshdMachine(folder / n, public_keys=[public_key]) for n in ("a", "b")]
        self.names = [f"{m.user}@{m.address}:{m.port}" for m in self.machines]

    def jobs(self) -> list[Path]:
        """Return the job directories on both."""
        return [
            path
            for machine in self.machines
            for path in (machine.home / ".training-orchestrator/jobs").glob("to-*")
        ]

    def directory(self, rank: int) -> JobDirectory:
        """Return the job directory of the machine of a rank; one of no name before it is there."""
        of_rank = [path for path in self.jobs() if (path.name.count("-") == 4) is bool(rank)]
        return JobDirectory(max(of_rank, default=Path("none"), key=lambda path: path.name))


@contextmanager
def two_hosts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TwoHosts]:
    """Run two hosts and let them be those of SSH_HOSTS."""
    own = MachineKeys("own")
    monkeypatch.setenv("SSH_KEY_FILE", str(own.private_key))
    hosts = TwoHosts(folder, own.public_key())
    monkeypatch.setenv("SSH_HOSTS", ",".join(hosts.names))
    try:
        for machine in hosts.machines:
            machine.start()
        yield hosts
    finally:
        for machine in hosts.machines:
            machine.kill()
