"""A driver for `pynvml`: the functions that are asked, answering for GPUs that a test describes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

GIB = 1 << 30


@dataclass
class Chip:
    """One GPU, or a part of a divided one."""

    uuid: str
    name: str = "NVIDIA A100"
    used: int = 0
    lost: bool = False
    rows: tuple[int, int, int, int] | None = (0, 0, 0, 0)
    """Remapped: corrected, uncorrected, pending, failed; None: not supported."""
    ecc: int | None = 0
    pending_pages: bool = False
    linked: tuple[str, ...] = ()
    """By NVLink."""
    node: int = 0
    parts: list[Chip] = field(default_factory=list)
    processes: list[Any] = field(default_factory=list)


class Driver:
    """Stands in for libnvidia-ml.so.1, below pynvml's own functions."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, chips: list[Chip]) -> None:
        self.chips = chips
        self.events: list[tuple[Chip, int]] = []
        self.listened: list[str] = []
        for name, function in self._functions():
            monkeypatch.setattr(pynvml, name, function)

    def _functions(self) -> Iterator[tuple[str, Any]]:
        yield "nvmlInit", lambda: None
        yield "nvmlShutdown", lambda: None
        yield "nvmlDeviceGetCount", lambda: len(self.chips)
        yield "nvmlEventSetCreate", object
        for name in dir(self):
            if name.startswith("nvml"):
                yield name, getattr(self, name)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Chip:
        if self.chips[index].lost:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
        return self.chips[index]

    def nvmlDeviceGetUUID(self, chip: Chip) -> str:
        return chip.uuid

    def nvmlDeviceGetName(self, chip: Chip) -> str:
        return chip.name

    def nvmlDeviceGetMemoryInfo(self, chip: Chip) -> Any:
        return SimpleNamespace(free=(80 - chip.used) * GIB, total=80 * GIB)

    def nvmlDeviceGetUtilizationRates(self, chip: Chip) -> Any:
        return SimpleNamespace(gpu=7)

    def nvmlDeviceGetTemperature(self, chip: Chip, sensor: int) -> int:
        assert sensor == pynvml.NVML_TEMPERATURE_GPU
        return 41

    def nvmlDeviceGetTotalEccErrors(self, chip: Chip, kind: int, counter: int) -> int:
        return self._known(chip.ecc)

    def nvmlDeviceGetRemappedRows(self, chip: Chip) -> tuple[int, int, int, int]:
        return self._known(chip.rows)

    def nvmlDeviceGetRetiredPagesPendingStatus(self, chip: Chip) -> int:
        return int(chip.pending_pages)

    def nvmlDeviceGetMigMode(self, chip: Chip) -> list[int]:
        return [int(bool(chip.parts)), 0]

    def nvmlDeviceGetMaxMigDeviceCount(self, chip: Chip) -> int:
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, chip: Chip, number: int) -> Chip:
        if number >= len(chip.parts):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return chip.parts[number]

    def nvmlDeviceGetComputeRunningProcesses(self, chip: Chip) -> list[Any]:
        return chip.processes

    def nvmlDeviceGetP2PStatus(self, one: Chip, other: Chip, kind: int) -> int:
        assert kind == pynvml.NVML_P2P_CAPS_INDEX_NVLINK
        linked = other.uuid in one.linked or one.uuid in other.linked
        return pynvml.NVML_P2P_STATUS_OK if linked else pynvml.NVML_P2P_STATUS_NOT_SUPPORTED

    def nvmlDeviceGetTopologyCommonAncestor(self, one: Chip, other: Chip) -> int:
        return pynvml.NVML_TOPOLOGY_NODE if one.node == other.node else pynvml.NVML_TOPOLOGY_SYSTEM

    def nvmlDeviceRegisterEvents(self, chip: Chip, kinds: int, events: Any) -> None:
        assert kinds == pynvml.nvmlEventTypeXidCriticalError
        self.listened.append(chip.uuid)

    def nvmlEventSetWait_v2(self, events: Any, milliseconds: int) -> Any:
        if not self.events:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_TIMEOUT)
        chip, xid = self.events.pop(0)
        kind = pynvml.nvmlEventTypeXidCriticalError
        return SimpleNamespace(eventType=kind, eventData=xid, device=chip)

    @staticmethod
    def _known(value: Any) -> Any:
        if value is None:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return value
