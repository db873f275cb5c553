"""A Slurm cluster of the tests' own: Debian's slurmctld, slurmd and munged, on ports of its own."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

UP_SECONDS = 60.0
LOOK_SECONDS = 0.1

_CONF = """\
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
SlurmctldDebug=info
SlurmdDebug=info
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=1,batch_sched_delay=0,defer_batch
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobCompType=jobcomp/none
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
ReturnToService=2
KillWait={kill_wait}
MinJobAge=300
InactiveLimit=0
MessageTimeout=10
GresTypes=gpu
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE PriorityTier=1 State=UP
PartitionName=urgent Nodes=ALL MaxTime=60 PriorityTier=9 State=UP
"""
_SBATCH = """#!/bin/sh
out=$({real} "$@") || exit
if [ -s {losses} ]; then
    truncate -s -1 {losses}
    echo 'sbatch: error: Batch job submission failed: Socket timed out on send/recv operation' >&2
    exit 1
fi
echo "$out"
"""


def free_ports(number: int) -> list[int]:
    """Return ports that nobody listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    try:
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


class SlurmCluster:
    """A controller and nodes, all on this computer; started, or as a context manager."""

    name = "slurm"

    def __init__(self, folder: Path, port: int = 0) -> None:
        """Prepare; nothing is started yet.

        Args:
            folder: in which the folder lies that the nodes share.
            port: not used: every daemon has a port of its own.
        """
        del port
        self.folder = folder
        self.key = secrets.token_hex(
            16
        )  # there is none: whoever may run sbatch may use the cluster
        self.errors: list[str] = []
        self.nodes = ["node1"]
        self.cpus = 2
        self.gpus = 0
        """Pretended: Slurm counts them, and there are none, so that a job with one finds none."""
        self.kill_wait = 5
        """Seconds from SIGTERM to SIGKILL."""
        self.boot_seconds = 0.0
        self.settings: dict[str, str] = {}
        """Of slurm.conf, in place of those here or beside them."""
        self._host = socket.gethostname().partition(".")[0]
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        self._own: Path | None = None

    @property
    def own(self) -> Path:
        """The folder of its daemons, with a path short enough for a socket."""
        if self._own is None:
            self._own = Path(tempfile.mkdtemp(prefix="slurm-"))
        return self._own

    @property
    def shared(self) -> Path:
        """The folder that its nodes share."""
        return self.folder / "shared"

    def environ(self) -> dict[str, str]:
        """Return the variables by which Slurm's commands, and the provider, find this cluster."""
        return {
            "SLURM_CONF": str(self.own / "slurm.conf"),
            "SLURM_LOGIN_NODE": "local",
            "SLURM_FOLDER": str(self.shared),
            # Jobs find the Python of these tests, with torch, as on a cluster that has it.
            "PATH": f"{self.own / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        }

    def start(self) -> None:
        """Start it, and wait until its nodes are idle."""
        self.shared.mkdir(parents=True, exist_ok=True)
        (self.own / "state").mkdir(exist_ok=True)
        self._write_conf()
        try:
            self._start_munge()
            self.start_controller()
            for name in self.nodes:
                self.start_node(name)
            self.until(lambda: self.states() == ["idle"] * len(self.nodes), "its nodes are idle")
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End its jobs, and then its daemons."""
        if (daemon := self._daemons.get("slurmctld")) and daemon.poll() is None:
            self.command("scancel", "--user=root", "--full", check=False)
            left = time.monotonic() + self.kill_wait + 5
            while self.alive(check=False) and time.monotonic() < left:
                time.sleep(LOOK_SECONDS)
        for name in sorted(self._daemons, reverse=True):
            self.end(name)
        shutil.rmtree(self.own, ignore_errors=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def alive(self, *, check: bool = True) -> list[str]:
        """Return the numbers of the jobs that have not ended."""
        said = self.command("squeue", "--noheader", "--format=%i %T", check=check)
        return [line.split()[0] for line in said.splitlines() if line.split()[1] != "COMPLETING"]

    def start_controller(self) -> None:
        """Start slurmctld, with the state that an earlier one left."""
        self._start("slurmctld", "slurmctld", "-D")

    def start_node(self, name: str) -> None:
        """Start the slurmd of a node."""
        (self.own / f"spool-{name}").mkdir(exist_ok=True)
        self._start(name, "slurmd", "-D", "-N", name)

    def end(self, name: str, number: int = signal.SIGTERM) -> None:
        """End a daemon: slurmctld, or the slurmd of a node."""
        daemon = self._daemons.pop(name, None)
        if daemon is None or daemon.poll() is not None:
            return
        daemon.send_signal(number)
        try:
            daemon.wait(10)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()

    def command(self, *words: str, check: bool = True) -> str:
        """Run one of Slurm's commands as its administrator, and return what it prints."""
        done = subprocess.run(
            words, env={**os.environ, **self.environ()}, capture_output=True, text=True, check=False
        )
        if check and done.returncode:
            raise AssertionError(f"{words}: {done.returncode} {done.stderr}{done.stdout}")
        return done.stdout

    def node(self, state: str) -> None:
        """Set the state of all nodes: drain, down or resume."""
        words = ("scontrol", "update", f"NodeName={','.join(self.nodes)}", f"State={state}")
        self.command(*words, "Reason=tests")

    def lose_answers(self, number: int) -> None:
        """Let so many calls of sbatch do their work, and then fail as if no answer had come."""
        folder = self.own / "bin"
        folder.mkdir(exist_ok=True)
        (self.own / "losses").write_text("x" * number)
        wrapper = folder / "sbatch"
        wrapper.write_text(_SBATCH.format(real=shutil.which("sbatch"), losses=self.own / "losses"))
        wrapper.chmod(0o755)

    def states(self) -> list[str]:
        """Return the state of each node."""
        said = self.command("sinfo", "-h", "-N", "-p", "main", "-o", "%t", check=False)
        return said.split()

    def jobs(self) -> dict[str, str]:
        """Return the state of each job by its number."""
        said = self.command("squeue", "-h", "-t", "all", "-o", "%i %T")
        return dict(line.split() for line in said.splitlines())

    def until(self, true: Callable[[], object], what: str) -> None:
        """Wait until something is true."""
        deadline = time.monotonic() + UP_SECONDS
        while not true():
            if time.monotonic() > deadline:
                logs = {path.name: path.read_text()[-2000:] for path in self.own.glob("*.log")}
                raise AssertionError(f"{what}: not within {UP_SECONDS:g} s. {logs}")
            time.sleep(LOOK_SECONDS)

    def _write_conf(self) -> None:
        controller, *ports = free_ports(1 + len(self.nodes))
        gres = f"Gres=gpu:pretended:{self.gpus}" if self.gpus else ""
        rows = [
            f"NodeName={name} NodeHostname={self._host} NodeAddr=127.0.0.1 Port={port} "
            f"CPUs={self.cpus} RealMemory=8000 {gres} Features=fast State=UNKNOWN"
            for name, port in zip(self.nodes, ports, strict=True)
        ]
        text = _CONF.format(
            host=self._host,
            folder=self.own,
            controller=controller,
            nodes="\n".join(rows),
            kill_wait=self.kill_wait,
        )
        # Slurm takes the last of two, but complains with every command.
        lines = [line for line in text.splitlines() if line.split("=")[0] not in self.settings]
        lines += [f"{name}={value}" for name, value in self.settings.items()]
        (self.own / "slurm.conf").write_text("\n".join([*lines, ""]))
        (self.own / "gres.conf").write_text(
            f"NodeName={','.join(self.nodes)} Name=gpu Type=pretended File=/dev/null\n"
            if self.gpus
            else ""
        )
        (self.own / "cgroup.conf").write_text("CgroupPlugin=autodetect\n")

    def _start_munge(self) -> None:
        key = self.own / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        self._start(
            "munged",
            "munged",
            "--foreground",
            "--force",
            "--num-threads=1",
            f"--key-file={key}",
            *(
                f"--{name}={self.own}/munge.{end}"
                for name, end in [
                    ("socket", "socket"),
                    ("pid-file", "pid"),
                    ("log-file", "log"),
                    ("seed-file", "seed"),
                ]
            ),
        )
        self.until((self.own / "munge.socket").exists, "munged listens")

    def _start(self, name: str, program: str, *arguments: str) -> None:
        path = shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
        assert path, f"{program} is not installed"
        with (self.own / f"{name}.out").open("ab") as output:
            self._daemons[name] = subprocess.Popen(
                [path, *arguments],
                env={**os.environ, **self.environ()},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
