"""The kinds of machine that training jobs run on, and what they cost.

No service says what a kind costs without a permission more, so the list prices are written down here:
USD per hour of on-demand training in us-east-1, us-east-2 and us-west-2, November 2026. Elsewhere they
differ, and the price counts as unknown unless the block's `prices` has it.
"""

from __future__ import annotations

from dataclasses import dataclass

LISTED_REGIONS = {"us-east-1", "us-east-2", "us-west-2"}
STORAGE_PRICE = 0.14  # USD for a GB of a volume and a month
TRAFFIC_PRICE = 0.09  # USD for a GB from the bucket to home
DEFAULT_DISK_GB = 100.0


@dataclass(frozen=True, slots=True)
class MlType:
    """One kind of machine."""

    name: str
    price: float
    """USD per hour."""
    ram_gb: float
    gpu_count: int = 0
    gpu_type: str | None = None
    vram_gb: float = 0.0
    """GiB of each GPU."""
    own_disk_gb: float = 0.0
    """GB of the disk that it has and that costs nothing more; 0: a volume is billed."""


def _of(
    family: str, gpu_type: str, vram_gb: float, *rows: tuple[str, float, float, int, float]
) -> list[MlType]:
    """Return a family's kinds: size, price, main memory, GPUs, disk."""
    return [
        MlType(f"ml.{family}.{size}", price, ram, count, gpu_type, vram_gb, disk)
        for size, price, ram, count, disk in rows
    ]


# Volta is left out: the images are built for CUDA 13, which no longer has it.
KINDS = [
    MlType("ml.m5.large", 0.115, 8),
    MlType("ml.m5.xlarge", 0.23, 16),
    MlType("ml.m5.2xlarge", 0.461, 32),
    MlType("ml.m5.4xlarge", 0.922, 64),
    *_of(
        "g4dn",
        "NVIDIA T4",
        15,
        ("xlarge", 0.7364, 16, 1, 125),
        ("2xlarge", 0.94, 32, 1, 225),
        ("4xlarge", 1.505, 64, 1, 225),
        ("8xlarge", 2.72, 128, 1, 900),
        ("12xlarge", 4.89, 192, 4, 900),
    ),
    *_of(
        "g5",
        "NVIDIA A10G",
        22,
        ("xlarge", 1.408, 16, 1, 250),
        ("2xlarge", 1.515, 32, 1, 450),
        ("4xlarge", 2.03, 64, 1, 600),
        ("8xlarge", 3.06, 128, 1, 900),
        ("12xlarge", 7.09, 192, 4, 3800),
        ("48xlarge", 20.36, 768, 8, 7600),
    ),
    *_of(
        "g6",
        "NVIDIA L4",
        22,
        ("xlarge", 1.127, 16, 1, 250),
        ("2xlarge", 1.222, 32, 1, 450),
        ("4xlarge", 1.654, 64, 1, 600),
        ("12xlarge", 5.752, 192, 4, 3760),
        ("48xlarge", 16.688, 768, 8, 7520),
    ),
    *_of(
        "g6e",
        "NVIDIA L40S",
        44,
        ("xlarge", 2.605, 32, 1, 250),
        ("2xlarge", 2.803, 64, 1, 450),
        ("4xlarge", 3.755, 128, 1, 600),
        ("12xlarge", 13.116, 384, 4, 3800),
        ("48xlarge", 37.664, 1536, 8, 7600),
    ),
    *_of("p4d", "NVIDIA A100 40GB", 40, ("24xlarge", 25.251, 1152, 8, 8000)),
    *_of("p4de", "NVIDIA A100 80GB", 80, ("24xlarge", 31.564, 1152, 8, 8000)),
    *_of(
        "p5",
        "NVIDIA H100 80GB",
        80,
        ("4xlarge", 7.912, 256, 1, 3800),
        ("48xlarge", 63.296, 2048, 8, 30400),
    ),
]
"""Sorted by family."""
BY_NAME = {kind.name: kind for kind in KINDS}
