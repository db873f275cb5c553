"""What the local Lambda Cloud has for hire."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

REGIONS = {
    "us-west-1": "California, USA",
    "us-east-1": "Virginia, USA",
    "us-east-3": "Washington D.C., USA",
    "europe-central-1": "Germany",
}


@dataclass(kw_only=True)
class Kind:
    """A type of instance; a test may change its price and its regions."""

    name: str
    gpu: str
    cents: int
    gpus: int = 1
    vcpus: int = 30
    memory_gib: int = 200
    storage_gib: int = 1400
    regions: list[str] = field(default_factory=list)
    """Where the API says that there are some."""
    architecture: str = "x86_64"
    smi: str = ""
    """What nvidia-smi says of one of its GPUs."""

    def json(self) -> dict[str, Any]:
        """Return it as a part of an instance."""
        return {
            "name": self.name,
            "description": f"{self.gpus}x {self.gpu}",
            "gpu_description": self.gpu,
            "price_cents_per_hour": self.cents,
            "architecture": self.architecture,
            "specs": {
                "vcpus": self.vcpus,
                "memory_gib": self.memory_gib,
                "storage_gib": self.storage_gib,
                "gpus": self.gpus,
            },
        }


def catalog() -> dict[str, Kind]:
    """Return the types by their names; one is sold out."""
    west, east = "us-west-1", "us-east-1"
    kinds = [
        Kind(
            name="gpu_8x_a100_80gb_sxm4",
            gpu="A100 (80 GB SXM4)",
            cents=1432,
            gpus=8,
            regions=[east],
            smi="NVIDIA A100-SXM4-80GB, 81920",
        ),
        Kind(
            name="gpu_1x_a10",
            gpu="A10 (24 GB PCIe)",
            cents=75,
            regions=[west, east],
            smi="NVIDIA A10, 23028",
        ),
        Kind(
            name="gpu_1x_a100_sxm4",
            gpu="A100 (40 GB SXM4)",
            cents=129,
            regions=[west],
            smi="NVIDIA A100-SXM4-40GB, 40960",
        ),
        Kind(
            name="gpu_1x_gh200",
            gpu="GH200 (96 GB)",
            cents=149,
            regions=["us-east-3"],
            architecture="arm64",
            smi="NVIDIA GH200 480GB, 97871",
        ),
        Kind(name="gpu_1x_rtx6000", gpu="RTX 6000 (24 GB)", cents=50, smi="Quadro RTX 6000, 24576"),
        Kind(
            name="cpu_4x_general",
            gpu="N/A",
            cents=8,
            gpus=0,
            vcpus=4,
            memory_gib=16,
            storage_gib=256,
            regions=["europe-central-1", west],
        ),
    ]
    return {kind.name: kind for kind in kinds}
