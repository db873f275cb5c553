"""Name what went wrong: any exception of the libraries, as one of ours."""

from __future__ import annotations

import errno
import pickle
import shutil
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from trainer.contract.errors import (
    CodeError,
    DependencyError,
    DiskFull,
    IntegrityError,
    OrchestratorError,
    OutOfMemory,
    PeerLost,
    TrainerKilled,
    TrainingFailed,
    TrainingStalled,
)

FULL = {errno.ENOSPC, errno.EDQUOT}
# Matched by text: torch, CUDA libraries, numpy and the kernel raise unrelated classes.
_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "Cannot allocate memory",
    "CUBLAS_STATUS_NOT_INITIALIZED",  # it allocates its workspace when it is first used
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "not enough memory",
)
_WORKERS = {
    "DataLoader worker (pid": "A process that reads data was ended; memory may have run out",
    "subprocesses has abruptly died": "A process that prepares data was ended",
    "unable to open shared memory object": "Shared memory (/dev/shm) is too small for the data",
    "unable to allocate shared memory": "Shared memory (/dev/shm) is too small for the data",
}
_DISK = (
    "No space left on device",
    "Disk quota exceeded",
    # How torch 2 says that it could not write a checkpoint:
    "PytorchStreamWriter failed",
    "iostream error",
    "unexpected pos ",
)
_HANGS = (
    "Timed out waiting",  # gloo
    "Watchdog caught collective operation timeout",  # NCCL
)
_PEERS = (
    "gloo/transport/",  # where gloo's errors say that they come from
    "NCCL error: remote process exited",
    "DistNetworkError: ",
    "DistStoreError: ",
)


def translate(
    error: BaseException, folder: Path, *, needed: int | None = None
) -> OrchestratorError:
    """Return `error` as one of the product's errors.

    Args:
        error: what was raised.
        folder: where the job writes; a full disk is reported with its sizes.
        needed: bytes of what was to be written there, where that is known.
    """
    if isinstance(error, OrchestratorError):
        return error
    text = f"{type(error).__name__}: {error}"
    first_line = text.strip().splitlines()[0][:500]
    if _is_disk_full(error, text):
        usage = shutil.disk_usage(folder)
        wanted = f", {needed / 2**20:.1f} MiB are needed" if needed else ""
        return DiskFull(
            f"The disk under {folder} is full: {usage.free / 2**20:.1f} MiB of "
            f"{usage.total / 2**20:.1f} MiB are free{wanted} ({first_line})."
        )
    if runs_out(error):
        return OutOfMemory(f"Memory ran out ({first_line}).")
    if sign := next((sign for sign in _WORKERS if sign in text), None):
        return TrainerKilled(f"{_WORKERS[sign]} ({first_line}).", "Lower dataloader_num_workers.")
    if any(sign in text for sign in _HANGS):
        return TrainingStalled(f"A process of the training waited in vain ({first_line}).")
    if any(sign in text for sign in _PEERS):
        return PeerLost(f"Another process of the training went away ({first_line}).")
    if isinstance(error, ImportError):
        return DependencyError(f"A package is missing or broken ({first_line}).")
    if " in DataLoader worker process " in first_line:  # torch gives the reason last
        first_line = f"{first_line} {text.strip().splitlines()[-1][:500]}"
    return TrainingFailed(f"The trainer failed ({first_line}).")


def named_by(lines: Iterable[str], folder: Path) -> OrchestratorError | None:
    """Return the error that the last lines of somebody else's program name, if they name one.

    Args:
        lines: oldest first.
        folder: where it writes; a full disk is reported with its sizes.
    """
    # The last complaint is the likeliest cause; earlier ones may have been survived.
    for line in reversed(list(lines)):
        if line.startswith(("ModuleNotFoundError: ", "ImportError: ")):
            return DependencyError(f"A package is missing or broken ({line[:500]}).")
        if any(sign in line for sign in (*_MEMORY, *_DISK)):
            return translate(RuntimeError(line), folder)
    return None


@contextmanager
def tensors_expected(checkpoint: str) -> Iterator[None]:
    """Name the checkpoint whose pickle wants more than to make tensors; torch runs none of it.

    Raises:
        IntegrityError: torch refused a file of the checkpoint.
    """
    try:
        yield
    except pickle.UnpicklingError as error:
        reason = str(error).strip().splitlines()[0]
        raise IntegrityError(
            f"{checkpoint} holds something other than tensors ({reason}).",
            "None of it was run. Find out who wrote it, remove it and run the job again: "
            "it continues from the checkpoint before.",
        ) from error


@contextmanager
def in_own_code(path: Path, what: str) -> Iterator[None]:
    """Name file, line and function where the user's own code raised an error.

    Args:
        path: the file.
        what: the role of the code, such as a field of the config.

    Raises:
        CodeError: for any exception but one of ours, and memory that ran out.
    """
    try:
        yield
    except OrchestratorError:
        raise
    except Exception as error:
        # Not their mistake: the batch was too large. It is retried with a smaller one.
        if runs_out(error):
            raise
        frames = traceback.extract_tb(error.__traceback__)
        # The innermost frame of their file: what it called in a library is not what to correct.
        own = next((frame for frame in reversed(frames) if frame.filename == str(path)), None)
        where = f", line {own.lineno}, in {own.name}" if own else ""
        reason = (str(error).strip().splitlines() or ["no reason given"])[0][:500]
        raise CodeError(
            f"{what}: {path}{where}: {type(error).__name__}: {reason.rstrip('.')}."
        ) from error


@contextmanager
def room_or_later() -> Iterator[None]:
    """Tolerate a full disk in a write that is made up for later: training goes on meanwhile.

    A checkpoint makes room, or ends the job with a reason (`trainer.engine.job_trainer.with_room`).
    """
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise


def runs_out(error: BaseException) -> bool:
    """Whether memory ran out, of whatever kind and however the libraries say it."""
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in _MEMORY)


def _is_disk_full(error: BaseException, text: str) -> bool:
    full = isinstance(error, OSError) and error.errno in FULL
    return full or any(sign in text for sign in _DISK)
