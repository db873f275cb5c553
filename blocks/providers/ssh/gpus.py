"""Who has the GPUs of a user's own host, and which are out of use: what the host says, with care."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from blocks.machines.hardware import MIB_PER_GIB, SeenGpu
from blocks.machines.shell import all_of, last_of
from blocks.providers.local.gpu import Gpu, GpuProcess
from trainer.contract.files import NOT_JSON
from trainer.contract.gpu_locks import Holder, holder_in

ASK_GPUS = (Path(__file__).parent / "gpus.sh").read_text(encoding="utf-8")
"""The script; it comes after `blocks.machines.hardware.ASK`, and prints what goes to `read_uses`."""

_APP = re.compile(r"((?:GPU|MIG)-[\w./-]{1,80}), *(\d{1,10}), *(\d{1,9}|\[N/A\]), *(.{1,200})")


@dataclass(slots=True)
class GpuUses:
    """What is known of the uses of a host's GPUs, by UUID."""

    holders: dict[str, list[Holder]] = field(default_factory=dict)
    sick: dict[str, str] = field(default_factory=dict)
    processes: dict[str, list[GpuProcess]] = field(default_factory=dict)

    def gpu(self, seen: SeenGpu) -> Gpu:
        """Return a GPU of the host."""
        return Gpu(
            index=seen.index,
            uuid=seen.uuid,
            name=seen.name,
            free_gb=seen.free_mib / MIB_PER_GIB,
            total_gb=seen.total_mib / MIB_PER_GIB,
            holders=tuple(self.holders.get(seen.uuid, ())),
            sick=self.sick.get(seen.uuid, ""),
            processes=tuple(self.processes.get(seen.uuid, ())),
        )


def read_uses(lines: Sequence[tuple[str, str]]) -> GpuUses:
    """Return what the lines of `ASK_GPUS` say; what cannot be read is passed over."""
    uses, notes = GpuUses(), _notes(all_of(lines, "gpunote"))
    for line in all_of(lines, "gpulock"):
        words = line.split()
        if len(words) != 3 or not words[1].isdecimal():
            continue
        uuid, first, last = words
        holder = holder_in(notes.get(f"{uuid}.{first}.json", {}))
        if last.isdecimal():
            gib = (int(last[:12]) - int(first[:12]) + 1) / MIB_PER_GIB
            holder = replace(holder, share_gb=max(0.0, gib))
        uses.holders.setdefault(uuid, []).append(holder)
    boot = last_of(lines, "boot")
    for name, record in notes.items():
        if name.endswith(".sick") and record.get("boot") == boot and record.get("reason"):
            uses.sick[name.removesuffix(".sick")] = str(record["reason"])[:200]
    for line in all_of(lines, "gpuapp"):
        if found := _APP.fullmatch(line):
            uuid, pid, used, program = found.groups()
            name = program.rpartition("/")[2]
            used_gb = int(used) / MIB_PER_GIB if used.isdecimal() else None
            process = GpuProcess(pid=int(pid), name=name, used_gb=used_gb)
            uses.processes.setdefault(uuid, []).append(process)
    return uses


def _notes(said: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return what stands in each of the host's notes, by its name."""
    notes: dict[str, dict[str, Any]] = {}
    for line in said:
        name, _, text = line.partition(" ")
        try:
            record = json.loads(text)
        except NOT_JSON:
            continue
        if isinstance(record, dict):
            notes[name] = record
    return notes
