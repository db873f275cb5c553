"""Start a training from a process that has imported torch already. Standard library only.

Importing torch and transformers takes longer than many a job's first step. A warm process has done
it, waits at a socket, and forks for every job that is started detached: the copy becomes the job's
supervisor, and its own copies the trainers. Nothing else differs from a start from nothing, which is
what happens wherever a warm process cannot serve, for whatever reason.

It serves only those who would get the same by starting anew: the same Python, code and packages, the
same limits, and the same environment, but for what a training reads itself.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import resource
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import trainer
from trainer.contract.own_python import own_python
from trainer.contract.redaction import is_secret
from trainer.supervision.process import IMPORTED

SECONDS = "TRAINING_ORCHESTRATOR_WARM_SECONDS"
"""How long a warm process waits for the next job before it ends; 0 or not set: there is none."""
MOST = 2  # warm processes of a user; each holds about half a gigabyte
LEAST_FREE_GB = 4.0  # of memory, for another one to be started
ANSWER_SECONDS = 30.0  # for a supervisor to be on record; then the job is started without it
START_SECONDS = 120.0  # for one to import everything; then, too
REFUSED_SECONDS = 3600.0  # for which none is started again that found that it may not fork
MEMORY = Path("/dev/shm")  # noqa: S108 - with a folder of our own in it
NAME = "warm-trainer"
CREDENTIALS = struct.Struct("3i")  # of a peer: process, user, group; see unix(7)
SERVER = "trainer.training.warm_process"
GIB = 1 << 30
REFUSED = ".refused"
CONFINED = ("Cap", "NoNewPrivs", "Seccomp", "Mems_allowed")
"""How lines of /proc/self/status begin that say what a process may do."""
FDS = 3  # standard input, output and error
READ_LATE = ("TRAINING_ORCHESTRATOR_", "PREFECT_", "WANDB_", "MLFLOW_", "SSH_", "PYTEST_")
"""How variables begin that no library reads while it is imported."""
READ_LATE_TOO = {
    *("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "CUDA_VISIBLE_DEVICES"),
    *("PWD", "OLDPWD", "SHLVL", "_", "TERM", "COLUMNS", "LINES", "LS_COLORS"),
}


def serve_warmly(arguments: Sequence[str]) -> int | None:
    """Have a warm process carry out a command of `python -m trainer`; None: none can.

    Returns:
        The exit code. What the command prints goes where this process prints.
    """
    seconds = _seconds()
    if not seconds or IMPORTED or sys.platform != "linux":
        return None
    try:
        with _connection(seconds) as connection:
            return _ask(connection, arguments) if connection else None
    except OSError:  # it ends at this moment, for instance
        return None


def _seconds() -> float:
    try:
        return float(os.environ.get(SECONDS) or 0)
    except ValueError:
        return 0.0


def _ask(connection: socket.socket, arguments: Sequence[str]) -> int | None:
    umask = os.umask(0o077)
    os.umask(umask)
    request = {
        "arguments": list(arguments),
        "environment": dict(os.environ),
        "folder": str(Path.cwd()),
        "umask": umask,
    }
    text = json.dumps(request).encode("utf-8", "surrogateescape")
    # The length goes with the descriptors, so that they cannot come without it.
    socket.send_fds(connection, [len(text).to_bytes(8, "big")], range(FDS))
    connection.sendall(text)
    connection.settimeout(ANSWER_SECONDS)
    try:
        answer = connection.recv(16)
    except TimeoutError:
        _end_hung(connection)
        return None
    # No answer: it died. Whether it had begun the job, the lock of the job directory says.
    return int(answer) if answer else None


def _end_hung(connection: socket.socket) -> None:
    """End a warm process that does not answer, so that nobody else waits for it."""
    # It holds our standard output, whose end somebody may await, for as long as it lives.
    Path(str(connection.getpeername())).unlink(missing_ok=True)
    peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
    pid = CREDENTIALS.unpack(peer)[0]
    if _text_of(Path(f"/proc/{pid}/comm")).strip() == NAME:
        os.kill(pid, signal.SIGKILL)


@contextmanager
def _connection(seconds: float) -> Iterator[socket.socket | None]:
    """Yield a connection to a warm process for this environment, which is started if need be."""
    folder = runtime_folder()
    path = folder / f"{fingerprint()}.socket"
    with socket.socket(socket.AF_UNIX) as connection:
        if _connects(connection, path):
            yield connection
            return
        with (folder / f"{path.stem}.lock").open("w") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            # Somebody else may have started it meanwhile.
            ready = _connects(connection, path) or (
                not _was_refused(path)
                and _has_room(folder)
                and _start(path, seconds)
                and _connects(connection, path)
            )
        yield connection if ready else None


def _connects(connection: socket.socket, path: Path) -> bool:
    try:
        connection.connect(str(path))
    except OSError:
        return False
    return True


def _start(path: Path, seconds: float) -> bool:
    """Start a warm process, and return whether it serves."""
    kept = {name: value for name, value in os.environ.items() if not _is_read_late(name)}
    reader, writer = os.pipe()
    try:
        process = subprocess.Popen(  # noqa: S603 - our own interpreter
            own_python("-m", SERVER, str(path), str(seconds), str(writer)),
            env=kept,  # no token of one job in the environment of the next
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(writer,),
            start_new_session=True,
        )
    finally:
        os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        if not select.select([stream], [], [], START_SECONDS)[0]:
            process.kill()
        if stream.read(1):
            return True
    # The end of the file: it may not fork here, or it died. The next job need not wait for the same.
    path.with_suffix(REFUSED).touch()
    return False


def _was_refused(path: Path) -> bool:
    age = time.time() - _last_used(path.with_suffix(REFUSED))
    return 0 <= age < REFUSED_SECONDS


def _has_room(folder: Path) -> bool:
    """Whether another one may be started; of too many, the one that served longest ago ends."""
    if free_gb() < LEAST_FREE_GB:
        return False
    others = sorted(folder.glob("*.socket"), key=_last_used)
    for path in others[: max(0, len(others) - MOST + 1)]:
        path.unlink(missing_ok=True)  # by which it ends
    return True


def _last_used(path: Path) -> float:
    with suppress(OSError):
        return path.stat().st_mtime
    return 0.0


def free_gb() -> float:
    """Return the memory that is free, in GiB."""
    with suppress(OSError, ValueError), Path("/proc/meminfo").open() as stream:
        for line in stream:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024 / GIB
    return 0.0


def runtime_folder() -> Path:
    """Return the folder of this user's warm processes, in memory: none survives a reboot.

    Raises:
        PermissionError: somebody else has made it.
    """
    folder = MEMORY / f"training-orchestrator-{os.getuid()}" / "warm"
    for each in (folder.parent, folder):
        each.mkdir(mode=0o700, exist_ok=True)
        if each.stat().st_uid != os.getuid() or each.is_symlink():
            raise PermissionError(f"{each} belongs to somebody else")
    return folder


def fingerprint() -> str:
    """Return what is the same for all whom one warm process may serve."""
    facts = {
        "python": [sys.executable, sys.version],
        "code": code_facts(),
        "environment": sorted(
            (name, value) for name, value in os.environ.items() if not _is_read_late(name)
        ),
        "process": _process_facts(),
    }
    text = json.dumps(facts, sort_keys=True).encode("utf-8", "surrogateescape")
    return hashlib.sha256(text).hexdigest()[:32]


def _is_read_late(name: str) -> bool:
    return name.startswith(READ_LATE) or name in READ_LATE_TOO or is_secret(name)


def code_facts() -> list[Any]:
    """Return what changes when the trainer or a package is changed."""
    root = Path(trainer.__file__).parent
    ours = [_stamp(path) for path in sorted(root.rglob("*.py"))]
    # Installing, upgrading or removing a package changes a folder of its name and version; of the same
    # version, its time.
    folders = [Path(entry) for entry in sys.path if entry.endswith("-packages")]
    return [
        ours,
        [[_stamp(path) for path in sorted(folder.glob("*.dist-info"))] for folder in folders],
    ]


def _stamp(path: Path) -> tuple[str, int, int]:
    found = path.stat()
    return str(path), found.st_mtime_ns, found.st_size


def _process_facts() -> list[Any]:
    """Return what a process hands down to those that it starts, and a warm one cannot."""
    limits = [name for name in dir(resource) if name.startswith("RLIMIT_")]
    names = ("cgroup", "oom_score_adj", "loginuid")
    return [
        os.getresuid(),
        os.getresgid(),
        sorted(os.getgroups()),
        os.nice(0),
        sorted(os.sched_getaffinity(0)),
        [[name, resource.getrlimit(getattr(resource, name))] for name in limits],
        [_text_of(Path("/proc/self") / name) for name in names],
        [_link_of(path) for path in sorted(Path("/proc/self/ns").iterdir())],
        _link_of(Path("/proc/self/root")),
        _text_of(Path("/proc/self/attr/current")),
        # What a sandbox has taken from its processes: nobody gets out of it by a warm one.
        [
            line
            for line in _text_of(Path("/proc/self/status")).splitlines()
            if line.startswith(CONFINED)
        ],
    ]


def _text_of(path: Path) -> str:
    with suppress(OSError):
        return path.read_text()
    return ""


def _link_of(path: Path) -> str:
    with suppress(OSError):
        return str(path.readlink())
    return ""
