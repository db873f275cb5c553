"""What a machine has, asked of itself in one round trip: disk, memory, cores, GPUs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from blocks.machines.shell import all_of, last_of, script

MIB_PER_GIB = 1024
KIB_PER_GIB = 1 << 20
ASK = script("hardware.sh")
"""The script; what it prints goes to `read_hardware`. It leaves `base` and `within` set."""

_DF = re.compile(r"\s\d+\s+\d+\s+(\d+)\s+(?:\d+%|-)\s")  # size, used, free, share
# Parts of names that one vendor writes and another leaves out, so they cannot tell kinds apart:
# "NVIDIA A100-SXM4-80GB" at the driver is "A100 SXM4" at Vast.ai.
_NOISE = re.compile(
    r"nvidia|geforce|quadro|tesla|rtx|gtx|generation|gpus?|graphics|pcie|nvl|sxm\d*|hbm\w*|\d+x"
    r"|\d+gi?b"
)
# Memory is not compared as a word but with what the driver reports: see `same_gpu`.
_MEMORY = re.compile(r"\b(\d+)\s?gi?b\b")


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenGpu:
    """A GPU as nvidia-smi shows it."""

    index: int
    uuid: str
    """As CUDA_VISIBLE_DEVICES takes it; the index where the driver gives none."""
    name: str
    total_mib: int
    free_mib: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """What a machine says of itself; sizes are 0 where it says nothing."""

    home: str
    """Absolute path of the user's home folder."""
    disk_free_gb: float
    """GiB free where our folder is."""
    ram_gb: float
    """GiB of main memory in all."""
    cores: int
    gpus: tuple[SeenGpu, ...]
    trouble: str
    """Why nvidia-smi cannot be believed; empty when it answered."""


def read_hardware(lines: Sequence[tuple[str, str]]) -> Hardware:
    """Return what the lines of `ASK` say; anything else in them is passed over."""
    said, code = all_of(lines, "gpu"), last_of(lines, "smi")
    trouble = ""
    if not code:
        trouble = "there is no nvidia-smi"
    # Both outputs of nvidia-smi are joined, so its error is among the rows: at their end.
    elif code != "0":
        last = next((line for line in reversed(said) if line), "no output")
        trouble = f"nvidia-smi fails with exit code {code}: {last[:300]}"
    free = _DF.search(f" {last_of(lines, 'disk')} ")
    return Hardware(
        home=last_of(lines, "home"),
        disk_free_gb=_number(free[1] if free else "") / KIB_PER_GIB,
        ram_gb=_number(last_of(lines, "memory")) / KIB_PER_GIB,
        cores=_number(last_of(lines, "cores")),
        gpus=() if trouble else _gpus(said),
        trouble=trouble,
    )


def same_gpu(asked: str, found: str, total_mib: int = 0) -> bool:
    """Whether a GPU is of the kind asked for, by the parts of its name that tell kinds apart.

    `A100 SXM4` is `NVIDIA A100-SXM4-80GB`; `A10` is not. Where memory is asked for by name
    (`A100 80GB`), nine tenths of it will do: drivers keep some for themselves.
    """
    if not _parts(asked) <= _parts(found):
        return False
    memory = _MEMORY.search(asked.casefold())
    return not (memory and total_mib and total_mib < 0.9 * int(memory[1]) * MIB_PER_GIB)


def _parts(name: str) -> set[str]:
    # Vast.ai writes "RTX 6000Ada" where the driver says "RTX 6000 Ada Generation".
    words = re.sub(r"(\d)ada\b", r"\1 ada", _MEMORY.sub(" ", name.casefold()))
    return {word for word in re.findall(r"[a-z0-9]+", words) if not _NOISE.fullmatch(word)}


def _gpus(said: Sequence[str]) -> tuple[SeenGpu, ...]:
    found: list[SeenGpu] = []
    for index, line in enumerate(said):
        name, *facts = (entry.strip() for entry in line.split(","))
        total, free, uuid = [*facts, "", "", ""][:3]
        if not total.isdecimal():  # "[GPU requires reset]" and the like: it does not work
            continue
        found.append(
            SeenGpu(
                index=index,
                # It ends up in an environment variable of the training, so nothing but the form
                # that NVIDIA documents is taken from a machine's output.
                uuid=uuid if re.fullmatch(r"(GPU|MIG)-[\w./-]{1,80}", uuid) else str(index),
                name=name[:80],
                total_mib=_number(total),
                # Drivers that cannot say what is free print [N/A]; then all of it counts as free.
                free_mib=_number(free if free.isdecimal() else total),
            )
        )
    return tuple(found)


def _number(text: str) -> int:
    """Return the first whole number in a text that a machine sent, or 0."""
    # At most 18 digits, because int() raises ValueError beyond 4300
    # (https://docs.python.org/3/library/stdtypes.html#int-max-str-digits) and the text is a
    # stranger's.
    found = re.search(r"\d{1,18}", text)
    return int(found[0]) if found else 0
