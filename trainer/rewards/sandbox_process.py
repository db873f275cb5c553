"""The process in which a sandboxed reward function runs; see `trainer.rewards.sandbox`.

python -m trainer.rewards.sandbox_process DESCRIPTOR path.py:name MEMORY_GB
"""

from __future__ import annotations

import ctypes
import faulthandler
import hashlib
import json
import os
import pickle
import random
import resource
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from trainer.config.code_references import split_reference
from trainer.contract.errors import OrchestratorError
from trainer.engine.custom_code import load
from trainer.engine.failures import runs_out
from trainer.rewards.checked import CheckedReward
from trainer.rewards.sandbox import HEADER

PR_SET_PDEATHSIG = 1  # <sys/prctl.h>


def main(descriptor: str, text: str, memory_gb: str) -> None:
    """Load the function, and answer calls until the other end is closed."""
    _confine(float(memory_gb))
    channel = socket.socket(fileno=int(descriptor))
    # Not for programs that the function starts.
    channel.set_inheritable(False)
    memory = f"needed more than {float(memory_gb):g} GiB of memory"
    path, name = split_reference(text, "reward_functions")
    try:
        reward = CheckedReward(load(text, "reward_functions"), name, path)
    except OrchestratorError as error:
        _send(channel, {"error": error.to_dict()})
        return
    except Exception as error:
        if not runs_out(error):
            raise
        _send(channel, {"lost": memory})
        return
    _send(channel, {"ready": True})
    while (columns := _next(channel)) is not None:
        _seed(columns)
        try:
            answer: dict[str, Any] = {"rewards": reward(**columns)}
        except OrchestratorError as error:
            answer = {"error": error.to_dict()}
        except Exception as error:
            if not runs_out(error):
                raise
            answer = {"lost": memory}
        _send(channel, answer)


def _confine(memory_gb: float) -> None:
    """End with the trainer, before it where memory runs out, and by no request to end that it gets."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() == 1:  # it died before the line above
        sys.exit(1)
    # Handlers rather than SIG_IGN, which programs that the function starts would inherit.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)  # by which stacks are asked for
    with suppress(OSError):  # the kernel's killer comes here first
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if memory_gb:
        # Not RLIMIT_AS: CUDA reserves far more addresses than it uses.
        most = int(memory_gb * 2**30)
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def _next(channel: socket.socket) -> dict[str, list[Any]] | None:
    header = _received(channel, HEADER.size)
    if len(header) < HEADER.size:
        return None
    content = _received(channel, HEADER.unpack(header)[0])
    columns: dict[str, list[Any]] = pickle.loads(content)  # noqa: S301 - the trainer has sent it
    return columns


def _received(channel: socket.socket, length: int) -> bytes:
    parts = []
    while length and (chunk := channel.recv(min(1 << 20, length))):
        parts.append(chunk)
        length -= len(chunk)
    return b"".join(parts)


def _send(channel: socket.socket, answer: dict[str, Any]) -> None:
    content = json.dumps(answer).encode()
    channel.sendall(HEADER.pack(len(content)) + content)


def _seed(columns: dict[str, list[Any]]) -> None:
    """Let what is drawn depend on the answers alone: a resumed run must draw the same again."""
    content = json.dumps(columns, sort_keys=True, default=repr).encode()
    seed = int.from_bytes(hashlib.sha256(content).digest()[:4])
    random.seed(seed)
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed(seed)
    if torch := sys.modules.get("torch"):
        torch.manual_seed(seed)


if __name__ == "__main__":
    main(*sys.argv[1:])
