"""What RunPod has for hire: kinds, list prices and stock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

LEVELS = ("NONE", "LOW", "MEDIUM", "HIGH")
DATA_CENTERS = ("EU-RO-1", "US-KS-2", "US-TX-3")


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A kind of GPU; prices are USD per hour for one."""

    id: str
    name: str
    memory: int
    mib: int
    """As its nvidia-smi prints it."""
    secure: float | None
    community: float | None
    stock: Mapping[str, str] = field(default_factory=dict)
    manufacturer: str = "NVIDIA"
    most: int = 8
    cuda: str = "12.8"


@dataclass(frozen=True, kw_only=True)
class Cpu:
    """A flavour of machines without GPU; prices are USD per hour for one vCPU."""

    id: str
    name: str
    group: str
    per_vcpu: float
    ram_per_vcpu: float
    stock: Mapping[str, str] = field(default_factory=dict)
    least: int = 2
    most: int = 32


HERE = {"EU-RO-1": "HIGH", "US-KS-2": "LOW"}
GPUS = (
    Gpu(id="unknown", name="unknown", memory=0, mib=0, secure=0.0, community=0.0, stock=HERE),
    Gpu(
        id="NVIDIA GeForce RTX 4090",
        name="RTX 4090",
        memory=24,
        mib=24564,
        secure=0.69,
        community=0.34,
        stock=HERE,
    ),
    Gpu(
        id="NVIDIA RTX A5000",
        name="RTX A5000",
        memory=24,
        mib=24564,
        secure=0.27,
        community=0.16,
        stock={},
    ),
    Gpu(
        id="NVIDIA L4",
        name="L4",
        memory=24,
        mib=23034,
        secure=0.39,
        community=None,
        stock={"US-TX-3": "MEDIUM"},
    ),
    Gpu(
        id="NVIDIA L40S",
        name="L40S",
        memory=48,
        mib=46068,
        secure=0.86,
        community=0.79,
        stock={"EU-RO-1": "LOW"},
    ),
    Gpu(
        id="NVIDIA A100 80GB PCIe",
        name="A100 PCIe",
        memory=80,
        mib=81920,
        secure=1.39,
        community=1.19,
        stock={"US-KS-2": "LOW"},
    ),
    Gpu(
        id="NVIDIA H100 80GB HBM3",
        name="H100 SXM",
        memory=80,
        mib=81559,
        secure=2.69,
        community=2.69,
        stock={"US-TX-3": "HIGH", "EU-RO-1": "NONE"},
    ),
    Gpu(
        id="AMD Instinct MI300X OAM",
        name="MI300X",
        memory=192,
        mib=196592,
        secure=0.5,
        community=0.5,
        stock=HERE,
        manufacturer="AMD",
    ),
)
CPUS = (
    Cpu(
        id="cpu3c",
        name="Compute-Optimized",
        group="Gen 3",
        per_vcpu=0.03,
        ram_per_vcpu=2.0,
        stock=HERE,
    ),
    Cpu(
        id="cpu3g",
        name="General Purpose",
        group="Gen 3",
        per_vcpu=0.04,
        ram_per_vcpu=4.0,
        stock={"US-TX-3": "HIGH"},
    ),
    Cpu(
        id="cpu3m",
        name="Memory-Optimized",
        group="Gen 3",
        per_vcpu=0.05,
        ram_per_vcpu=8.0,
        stock=HERE,
    ),
    Cpu(
        id="cpu5c",
        name="Compute-Optimized",
        group="Gen 5",
        per_vcpu=0.035,
        ram_per_vcpu=2.0,
        stock={},
    ),
)


def gpu_json(gpu: Gpu, cloud: str, count: int, *, stock: bool) -> dict[str, Any]:
    """Return a GPU type as the catalogue shows it."""
    most = gpu.most if (gpu.secure if cloud == "SECURE" else gpu.community) is not None else 0
    shown = gpu.stock if count <= most else {}
    return {
        "id": gpu.id,
        "name": gpu.name,
        "pool": None,
        "manufacturer": gpu.manufacturer,
        "memory": gpu.memory,
        "secure": gpu.secure is not None,
        "community": gpu.community is not None,
        "price": {"secure": gpu.secure or 0.0, "community": gpu.community or 0.0},
        "maxCount": {"secure": gpu.most, "community": gpu.most},
        **(_stock(shown) if stock else {}),
        **({"cudaVersions": [{"version": gpu.cuda, "available": True}]} if stock else {}),
    }


def cpu_json(cpu: Cpu, *, stock: bool) -> dict[str, Any]:
    """Return a CPU flavour as the catalogue shows it."""
    return {
        "id": cpu.id,
        "name": cpu.name,
        "group": cpu.group,
        "vcpu": {"min": cpu.least, "max": cpu.most},
        "ramGbPerVcpu": cpu.ram_per_vcpu,
        "price": {"securePerVcpu": cpu.per_vcpu, "serverlessPerVcpu": cpu.per_vcpu},
        **(_stock(cpu.stock) if stock else {}),
    }


def _stock(stock: Mapping[str, str]) -> dict[str, Any]:
    """Return the best level, and the data centres that have some."""
    best = max(stock.values(), key=LEVELS.index, default="NONE")
    places = [{"id": id, "name": id, "availability": level} for id, level in stock.items()]
    return {"availability": best, **({"dataCenters": places} if best != "NONE" else {})}
