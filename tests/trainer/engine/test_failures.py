"""Any exception of the libraries, as one of ours."""

import errno
import pickle
import subprocess
import sys

import pytest

from trainer.contract.errors import (
    ConfigError,
    DependencyError,
    DiskFull,
    IntegrityError,
    OutOfMemory,
    TrainerKilled,
    TrainingFailed,
)
from trainer.engine.failures import tensors_expected, translate

NO_SPACE = OSError(errno.ENOSPC, "No space left on device")
CASES = [
    (MemoryError(), OutOfMemory),
    (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB."), OutOfMemory),
    (RuntimeError("CUDA error: out of memory"), OutOfMemory),
    (RuntimeError("HIP out of memory. Tried to allocate"), OutOfMemory),
    (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"), OutOfMemory),
    (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), OutOfMemory),
    (RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling"), OutOfMemory),
    (OSError(errno.ENOMEM, "Cannot allocate memory"), OutOfMemory),
    (RuntimeError("One of the subprocesses has abruptly died during map"), TrainerKilled),
    (NO_SPACE, DiskFull),
    (OSError(errno.EDQUOT, "Disk quota exceeded"), DiskFull),
    (Exception("I/O error: No space left on device (os error 28)"), DiskFull),
    (RuntimeError("PytorchStreamWriter failed writing file data/3: file write failed"), DiskFull),
    (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0"), DiskFull),
    (RuntimeError("basic_ios::clear: iostream error"), DiskFull),
    (ModuleNotFoundError("No module named 'trl'"), DependencyError),
    (ValueError("a surprise"), TrainingFailed),
    (OSError(errno.EIO, "Input/output error"), TrainingFailed),
    (AssertionError(), TrainingFailed),
]


@pytest.mark.parametrize(("error", "kind"), CASES, ids=lambda case: str(case)[:40])
def test_what_the_libraries_raise_gets_its_name(tmp_path, error, kind):
    named = translate(error, tmp_path)

    assert type(named) is kind
    assert named.message.endswith(".")
    assert "\n" not in named.message


GATHERING = """
import os, sys, time
from datetime import timedelta
from pathlib import Path
import torch
import torch.distributed as dist
from trainer.engine.failures import translate

folder, rank, fault = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
dist.init_process_group("gloo", f"file://{folder}/store", world_size=2, rank=rank)
dist.all_reduce(torch.ones(1))
# From here on, since a busy computer may take longer to bring the two together.
dist.distributed_c10d._set_pg_timeout(timedelta(seconds=2))
if rank == 1:
    if fault == "hangs":
        sys.stdin.read()
    os._exit(0)
try:
    dist.all_reduce(torch.ones(1))
except Exception as error:
    print(type(translate(error, folder)).__name__, flush=True)
os._exit(0)
"""


@pytest.mark.xdist_group("torch")
@pytest.mark.parametrize(("fault", "name"), [("hangs", "TrainingStalled"), ("dies", "PeerLost")])
@pytest.mark.thorough
def test_another_process_that_hangs_or_dies_is_told_apart(tmp_path, fault, name):
    command = [sys.executable, "-c", GATHERING, str(tmp_path)]

    with subprocess.Popen([*command, "1", fault], stdin=subprocess.PIPE):
        first = subprocess.run([*command, "0", fault], capture_output=True, check=False, text=True)

    assert first.stdout == f"{name}\n", first.stderr


def test_what_has_a_name_keeps_it(tmp_path):
    error = ConfigError("training.model: is not a folder.")

    assert translate(error, tmp_path) is error


def test_a_full_disk_is_reported_with_both_sizes(tmp_path):
    message = translate(NO_SPACE, tmp_path).message

    assert f"The disk under {tmp_path} is full: " in message
    assert message.count(" MiB") == 2


def test_only_the_first_line_of_a_long_story_is_told(tmp_path):
    message = translate(RuntimeError("first\nsecond " + "x" * 10_000), tmp_path).message

    assert message == "The trainer failed (RuntimeError: first)."


def test_what_a_worker_raised_is_told_with_its_reason(tmp_path):
    story = "Caught ValueError in DataLoader worker process 0.\nTraceback:\nValueError: row 7"

    named = translate(ValueError(story), tmp_path)

    assert type(named) is TrainingFailed
    assert "ValueError: row 7" in named.message


def test_a_pickle_that_torch_refuses_is_named_with_its_checkpoint():
    with (
        pytest.raises(IntegrityError, match="checkpoint-4 holds something other than tensors"),
        tensors_expected("checkpoints/checkpoint-4"),
    ):
        raise pickle.UnpicklingError("Weights only load failed.\nMore.")
