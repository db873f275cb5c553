"""Whether a machine that SSH reaches can do what it was hired for, before anything is installed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from blocks.machines.base import Machine
from blocks.machines.hardware import ASK, Hardware, read_hardware, same_gpu
from blocks.machines.shell import FOLDER, all_of, last_of, marked, run_script, script
from trainer.contract.errors import BootError

READY_SECONDS = 120.0  # in all; half of it for the GPUs to compute
DISK_SHARE = 0.9  # of what was asked for: a file system keeps some, and vendors count in 10^9
TIMED_OUT = "124"  # exit code of timeout(1)

_SCRIPT = ASK + script("readiness.sh")

# Only a build for CUDA says anything about the GPUs, and importing another takes seconds.
# A product of matrices of ones adds up to 256 ** 3 = 2 ** 24, the largest count that float32 still
# holds exactly; a GPU with a broken unit misses it.
_COMPUTE = """
import importlib.util, pathlib, re, sys
spec = importlib.util.find_spec("torch")
version = pathlib.Path(spec.origin).with_name("version.py") if spec and spec.origin else None
if not (version and version.exists() and re.search(r"cuda\\b[^=\\n]*= *['\\"]", version.read_text())):
    sys.exit()
import torch
print("@visible", torch.cuda.device_count())
for index in range(torch.cuda.device_count()):
    try:
        ones = torch.ones(256, 256, device=f"cuda:{index}")
        right = float((ones @ ones).sum()) == 256.0 ** 3
    except Exception as error:
        print(f"@wrong GPU {index}: {str(error).splitlines()[0][:200]}")
    else:
        if not right:
            print(f"@wrong GPU {index}: a product of matrices came out wrong")
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineFacts:
    """What is known of a machine that is ready."""

    home: str
    """Absolute path of the user's home folder."""
    base: str
    """Absolute path of our folder in it; it is there, for its owner alone."""
    disk_free_gb: float
    """GiB free where our folder is."""
    gpus: tuple[tuple[str, int], ...]
    """Name and MiB of memory in all, of each GPU."""
    python: str | None
    """Absolute path of the first Python on the PATH, of whatever version."""


async def become_ready(
    machine: Machine, *, gpu_count: int, gpu_type: str | None, disk_gb: float | None
) -> MachineFacts:
    """Make our folder on a machine and return what it has, if it has what was asked for.

    Args:
        machine: the connection to it.
        gpu_count: how many GPUs it must have; with 0 they are not checked.
        gpu_type: of which kind, loosely: see `same_gpu`. None: any.
        disk_gb: GiB that must be free, of which nine tenths will do. None: any.

    Raises:
        BootError: it has not; the message says what was asked for and what there is.
        ConnectionLost: the machine cannot be reached.
    """
    try:
        result = await run_script(
            machine, _SCRIPT, _COMPUTE if gpu_count else "", timeout=READY_SECONDS
        )
    except TimeoutError:
        raise BootError(
            f"The machine does not say within {READY_SECONDS:g} s what it has."
        ) from None
    lines = marked(result.stdout)
    hardware = read_hardware(lines)
    # Without a home folder the script did not run at all: a restricted shell, or a greeting that
    # asks something. Nothing after this line would make sense.
    if not hardware.home.startswith("/"):
        raise BootError(f"The machine does not say what it has: {result.stderr.strip()[-300:]}.")
    _check_disk(hardware, lines, disk_gb)
    if gpu_count:
        _check_gpus(hardware, gpu_count, gpu_type)
        _check_computing(lines, gpu_count)
    return MachineFacts(
        home=hardware.home,
        base=_base(hardware),
        disk_free_gb=hardware.disk_free_gb,
        gpus=tuple((gpu.name, gpu.total_mib) for gpu in hardware.gpus),
        python=last_of(lines, "python") or None,
    )


def _base(hardware: Hardware) -> str:
    return f"{hardware.home.rstrip('/')}/{FOLDER}"


def _check_disk(
    hardware: Hardware, lines: Sequence[tuple[str, str]], disk_gb: float | None
) -> None:
    if refusals := all_of(lines, "unwritable"):
        raise BootError(f"{_base(hardware)} on the machine cannot be written: {refusals[0]}.")
    # Before anything is installed: a full disk would otherwise show as an error of pip, minutes
    # later.
    if disk_gb and hardware.disk_free_gb < DISK_SHARE * disk_gb:
        raise BootError(
            f"The machine's disk is too small: {disk_gb:g} GiB were asked for, "
            f"{hardware.disk_free_gb:.1f} GiB are free in {_base(hardware)}."
        )


def _check_gpus(hardware: Hardware, gpu_count: int, gpu_type: str | None) -> None:
    if hardware.trouble:
        raise BootError(f"The machine shows no GPU: {hardware.trouble}.")
    if len(hardware.gpus) < gpu_count:
        raise BootError(
            f"The machine has {len(hardware.gpus)} GPUs that work, {gpu_count} were hired."
        )
    for gpu in hardware.gpus:
        if gpu_type and not same_gpu(gpu_type, gpu.name, gpu.total_mib):
            raise BootError(
                f"The machine has the wrong GPU: {gpu.name} with {gpu.total_mib} MiB, "
                f"{gpu_type} was hired."
            )


def _check_computing(lines: Sequence[tuple[str, str]], gpu_count: int) -> None:
    """Judge what Python's torch found, on a machine that has both."""
    code = last_of(lines, "computed")
    # Before the other answers: a driver that hangs prints nothing, and looks like a machine
    # without torch.
    if code == TIMED_OUT:
        raise BootError("The machine's GPU does not multiply two matrices within 60 s.")
    if wrong := all_of(lines, "wrong"):
        raise BootError(f"The machine's GPU does not compute: {'; '.join(wrong)}.")
    visible = last_of(lines, "visible")
    # Without torch on the machine nothing is printed, and nvidia-smi's word has to do.
    if visible and (not visible.isdecimal() or int(visible) < gpu_count):
        raise BootError(
            f"CUDA sees {visible} GPUs on the machine, {gpu_count} were hired: its driver does "
            "not work with the torch that is installed there."
        )
