"""A process that has imported what training takes, and forks for every job that is started.

`python -m trainer.training.warm_process SOCKET SECONDS READY`, started by `trainer.supervision.warm`,
which says what this is for. It ends when it has waited long enough, when the code has changed, when
memory gets scarce, and when its socket was removed. The jobs that it has started go on.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from trainer.contract.files import read_json
from trainer.contract.garbage import leave_out_imports, search_seldom
from trainer.contract.job_directory import JobDirectory
from trainer.contract.own_python import own_python
from trainer.supervision import warm
from trainer.supervision.process import IMPORTED, OF_LIBRARIES, name_process
from trainer.supervision.restart_decision import OWN_TRAINER
from trainer.training.starting import is_light, start_lightly

LOOK_SECONDS = 2.0  # between two looks whether it is still wanted
CODE_SECONDS = 30.0  # between two looks at the code
SCARCE_GB = 1.0  # of free memory: then others need it more
NVML_ONLY = "PYTORCH_NVML_BASED_CUDA_CHECK"
# What a training of any method imports; those of one method alone take a moment.
MODULES = (
    *("trainer.__main__", OWN_TRAINER, "trainer.data.tokenization", "trainer.engine.job_trainer"),
    *("trainer.engine.memory_prediction", "trainer.training.settling", "trainer.training.usage"),
    *("trainer.training.first_row", "trainer.methods.sft", "trainer.engine.callbacks"),
)


def main(path: Path, seconds: float, ready: int) -> None:
    """Serve at a socket until nobody needs it any more."""
    before = warm.fingerprint()
    name_process(warm.NAME)
    _import_all()
    if not _may_fork():
        return
    OF_LIBRARIES.update(map(int, os.listdir("/proc/self/fd")))  # noqa: PTH208  only their names
    OF_LIBRARIES.discard(ready)
    IMPORTED[tuple(own_python("-m", OWN_TRAINER))] = _serves
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel clears away those that have ended
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    path.unlink(missing_ok=True)  # of one that was killed
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        inode = _inode(path)
        os.write(ready, b"\n")
        os.close(ready)
        try:
            _serve(listening, path, seconds, before, inode)
        finally:
            if _inode(path) == inode:
                path.unlink(missing_ok=True)


def _import_all() -> None:
    search_seldom()
    # Asking the driver itself would make this process unfit for copies that use the GPU.
    os.environ[NVML_ONLY] = "1"
    start_lightly({})
    for name in MODULES:
        importlib.import_module(name)
    _import_lazy_ones()
    del os.environ[NVML_ONLY]
    leave_out_imports()


def _import_lazy_ones() -> None:
    """Import what transformers and PEFT import at their first use."""
    import transformers

    for name in ("AutoModelForCausalLM", "AutoTokenizer", "AutoConfig", "Trainer"):
        getattr(transformers, name)
    for name in ("transformers.models.llama.modeling_llama", "datasets.arrow_dataset", "peft"):
        importlib.import_module(name)


def _may_fork() -> bool:
    """Whether a copy of this process can do all that a new one could."""
    import torch

    opened = [_target(entry) for entry in Path("/proc/self/fd").iterdir()]
    # A copy has only the thread that forks. numpy's OpenBLAS and Arrow's jemalloc start theirs anew
    # there, by pthread_atfork(3); of OpenMP, which does not, none may have been started yet.
    of_libraries = len(os.sched_getaffinity(0)) - 1 + 1
    return (
        threading.active_count() == 1
        and len(list(Path("/proc/self/task").iterdir())) <= 1 + of_libraries
        and not torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
        and not any(name.startswith("/dev/nvidia") for name in opened)
    )


def _target(entry: Path) -> str:
    with suppress(OSError):
        return str(entry.readlink())
    return ""


def _serves(job_directory: str) -> Callable[[str], int] | None:
    """Return what trains a job, if that takes no package which was left out here."""
    config = (read_json(JobDirectory(job_directory).job) or {}).get("config")
    if not is_light(config):
        return None
    from trainer.training.train import begin

    return begin


def _serve(
    listening: socket.socket, path: Path, seconds: float, before: str, inode: int | None
) -> None:
    listening.settimeout(LOOK_SECONDS)
    used = looked = time.monotonic()
    while _inode(path) == inode and warm.free_gb() >= SCARCE_GB:
        now = time.monotonic()
        if now - used >= seconds:
            return
        if now - looked >= CODE_SECONDS:
            looked = now
            if warm.fingerprint() != before:
                return
        try:
            connection, _ = listening.accept()
        except TimeoutError:
            continue
        with connection, suppress(OSError, ValueError, KeyError):
            _fork_for(connection, listening)
        used = time.monotonic()
        with suppress(OSError):
            os.utime(path)


def _inode(path: Path) -> int | None:
    """Return what is there by that name: somebody else may have taken it."""
    with suppress(OSError):
        return path.stat().st_ino
    return None


def _fork_for(connection: socket.socket, listening: socket.socket) -> None:
    """Take a request, and let a copy of this process carry it out."""
    connection.settimeout(LOOK_SECONDS)  # whoever connects and says nothing holds nobody up
    head, fds, _, _ = socket.recv_fds(connection, 8, warm.FDS)
    try:
        request = json.loads(_exactly(connection, int.from_bytes(head, "big")))
        if os.fork() == 0:
            listening.close()
            if _has_hung_up(connection):  # and has started the job without us
                os._exit(1)
            _become(request, fds, connection)
    finally:
        for fd in fds:
            os.close(fd)


def _has_hung_up(connection: socket.socket) -> bool:
    """Whether whoever asked no longer waits: this process was held up for too long."""
    connection.setblocking(False)  # noqa: FBT003  its only parameter
    try:
        return connection.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    finally:
        connection.settimeout(LOOK_SECONDS)


def _exactly(connection: socket.socket, size: int) -> str:
    parts = bytearray()
    while len(parts) < size:
        part = connection.recv(size - len(parts))
        if not part:
            raise ValueError("the request ended early")
        parts += part
    return parts.decode("utf-8", "surrogateescape")


def _become(request: dict[str, Any], fds: list[int], connection: socket.socket) -> NoReturn:
    """Carry out a command as the process that asked would have."""
    code = 1
    try:
        os.setsid()
        name_process("supervisor")
        for each in (signal.SIGCHLD, signal.SIGHUP):
            signal.signal(each, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number, fd in enumerate(fds):
            os.dup2(fd, number)
            os.close(fd)
        # Only this process answers; the supervisor and its trainers live on.
        os.register_at_fork(after_in_child=connection.close)
        os.environ.clear()
        os.environ.update(request["environment"])
        os.chdir(request["folder"])
        os.umask(request["umask"])
        supervising = importlib.import_module("trainer.__main__")
        code = supervising.main(request["arguments"])
        sys.stdout.flush()
    except BaseException:  # noqa: BLE001  nobody above would see it
        traceback.print_exc()
    finally:
        with suppress(OSError):
            connection.send(str(code).encode())
        os._exit(code)


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]))
