"""What this process uses while it trains: memory, GPU and CPU."""

from __future__ import annotations

from typing import Any

import psutil
import pynvml
import torch

GIB = 2**30


class Telemetry:
    """Reads the gauges; without a GPU its values are None. About 0.1 ms a reading."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._process.cpu_percent()  # the first reading is the start of the interval
        self._cuda = torch.cuda if torch.cuda.is_available() else None
        self._handle = self._nvml_handle() if self._cuda else None

    def read(self) -> dict[str, float | None]:
        """Return use of the CPU (percent of one core), RAM and GPU memory (GiB), GPU (percent)."""
        allocated = reserved = None
        if self._cuda:
            allocated = round(self._cuda.memory_allocated() / GIB, 4)
            reserved = round(self._cuda.memory_reserved() / GIB, 4)
        return {
            "gpu_memory_allocated_gb": allocated,
            "gpu_memory_reserved_gb": reserved,
            "gpu_utilization_percent": self._gpu_utilization(),
            "cpu_percent": self._process.cpu_percent(),
            "ram_gb": round(self._process.memory_info().rss / GIB, 4),
        }

    def _nvml_handle(self) -> Any:
        assert self._cuda  # noqa: S101 - for the type checker: only called with CUDA
        try:
            pynvml.nvmlInit()
            # By UUID: NVML counts all GPUs of the machine, CUDA only those in CUDA_VISIBLE_DEVICES.
            uuid = f"GPU-{self._cuda.get_device_properties(0).uuid}"
            return pynvml.nvmlDeviceGetHandleByUUID(uuid)
        except pynvml.NVMLError:
            return None  # a container without the driver's library still trains

    def _gpu_utilization(self) -> float | None:
        if self._handle is None:
            return None
        try:
            return float(pynvml.nvmlDeviceGetUtilizationRates(self._handle).gpu)
        except pynvml.NVMLError:
            return None
