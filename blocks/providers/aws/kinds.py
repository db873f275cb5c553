"""The kinds of machine that AWS hires out for training, with dated prices for want of newer ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

PRICES_OF = "2026-11"
"""When the prices below were current: USD per hour on demand in us-east-1, for Linux."""
PRICING_REGION = "us-east-1"
"""Where the Pricing API is asked; it has an endpoint in a few regions only, and knows all."""
GB_MONTH = 0.08
"""USD for a GB of gp3 and a month."""
PUBLIC_ADDRESS = 0.005
"""USD per hour for a public IPv4 address."""
EGRESS_GB = 0.09
"""USD for a GB that leaves AWS."""


@dataclass(frozen=True, slots=True)
class MachineType:
    """A type of instance."""

    name: str
    gpu: str
    """As `nvidia-smi` calls it, without the vendor; empty: it has none."""
    gpus: int
    vram_gb: float
    """GiB of memory per GPU."""
    vcpus: int
    ram_gb: float
    price: float
    """Of the table; see `PRICES_OF`."""

    @property
    def family(self) -> str:
        """Which quota it counts against: G, P, P5 or standard."""
        if not self.gpu:
            return "standard"
        if self.name.startswith("g"):
            return "G"
        return "P" if self.name.startswith(("p2", "p3", "p4")) else "P5"


def _of(gpu: str, vram_gb: float, *rows: tuple[str, int, int, float, float]) -> list[MachineType]:
    return [
        MachineType(name, gpu, gpus, vram_gb, vcpus, ram, price)
        for name, gpus, vcpus, ram, price in rows
    ]


KINDS: Mapping[str, MachineType] = {
    kind.name: kind
    for kind in [
        *_of(
            "Tesla T4",
            16,
            ("g4dn.xlarge", 1, 4, 16, 0.526),
            ("g4dn.2xlarge", 1, 8, 32, 0.752),
            ("g4dn.4xlarge", 1, 16, 64, 1.204),
            ("g4dn.8xlarge", 1, 32, 128, 2.176),
            ("g4dn.12xlarge", 4, 48, 192, 3.912),
        ),
        *_of(
            "A10G",
            24,
            ("g5.xlarge", 1, 4, 16, 1.006),
            ("g5.2xlarge", 1, 8, 32, 1.212),
            ("g5.4xlarge", 1, 16, 64, 1.624),
            ("g5.8xlarge", 1, 32, 128, 2.448),
            ("g5.16xlarge", 1, 64, 256, 4.096),
            ("g5.12xlarge", 4, 48, 192, 5.672),
            ("g5.24xlarge", 4, 96, 384, 8.144),
            ("g5.48xlarge", 8, 192, 768, 16.288),
        ),
        *_of(
            "L4",
            24,
            ("g6.xlarge", 1, 4, 16, 0.8048),
            ("g6.2xlarge", 1, 8, 32, 0.9776),
            ("g6.4xlarge", 1, 16, 64, 1.3232),
            ("g6.8xlarge", 1, 32, 128, 2.0144),
            ("g6.16xlarge", 1, 64, 256, 3.3968),
            ("g6.12xlarge", 4, 48, 192, 4.6016),
            ("g6.24xlarge", 4, 96, 384, 6.6752),
            ("g6.48xlarge", 8, 192, 768, 13.3504),
        ),
        *_of(
            "L40S",
            48,
            ("g6e.xlarge", 1, 4, 32, 1.861),
            ("g6e.2xlarge", 1, 8, 64, 2.24208),
            ("g6e.4xlarge", 1, 16, 128, 3.00424),
            ("g6e.8xlarge", 1, 32, 256, 4.52856),
            ("g6e.16xlarge", 1, 64, 512, 7.57719),
            ("g6e.12xlarge", 4, 48, 384, 10.49264),
            ("g6e.24xlarge", 4, 96, 768, 15.06559),
            ("g6e.48xlarge", 8, 192, 1536, 30.13118),
        ),
        *_of(
            "Tesla V100-SXM2",
            16,
            ("p3.2xlarge", 1, 8, 61, 3.06),
            ("p3.8xlarge", 4, 32, 244, 12.24),
            ("p3.16xlarge", 8, 64, 488, 24.48),
        ),
        *_of("A100-SXM4-40GB", 40, ("p4d.24xlarge", 8, 96, 1152, 21.9576)),
        *_of("A100-SXM4-80GB", 80, ("p4de.24xlarge", 8, 96, 1152, 27.4471)),
        *_of(
            "H100 80GB HBM3",
            80,
            ("p5.4xlarge", 1, 16, 256, 6.88),
            ("p5.48xlarge", 8, 192, 2048, 55.04),
        ),
        *_of("H200", 141, ("p5en.48xlarge", 8, 192, 2048, 63.296)),
        *_of("B200", 180, ("p6-b200.48xlarge", 8, 192, 2048, 113.9328)),
        *_of(
            "",
            0,
            ("c7i.xlarge", 0, 4, 8, 0.1785),
            ("c7i.2xlarge", 0, 8, 16, 0.357),
            ("c7i.4xlarge", 0, 16, 32, 0.714),
            ("m7i.large", 0, 2, 8, 0.1008),
            ("m7i.xlarge", 0, 4, 16, 0.2016),
            ("m7i.2xlarge", 0, 8, 32, 0.4032),
            ("m7i.4xlarge", 0, 16, 64, 0.8064),
            ("r7i.xlarge", 0, 4, 32, 0.2646),
            ("r7i.2xlarge", 0, 8, 64, 0.5292),
            ("r7i.4xlarge", 0, 16, 128, 1.0584),
        ),
    ]
}
"""By name."""

FACTORS: Mapping[str, float] = {
    **dict.fromkeys(("us-east-1", "us-east-2", "us-west-2"), 1.0),
    "us-west-1": 1.25,
    "ca-central-1": 1.15,
    "eu-west-1": 1.15,
    "eu-west-2": 1.2,
    "eu-west-3": 1.25,
    "eu-central-1": 1.3,
    "eu-north-1": 1.1,
    "eu-south-2": 1.15,
    "ap-south-1": 1.2,
    "ap-northeast-1": 1.45,
    "ap-northeast-2": 1.3,
    "ap-southeast-1": 1.4,
    "ap-southeast-2": 1.35,
    "sa-east-1": 1.7,
}
"""How much dearer a region is at most, roughly; of others no price is known without the API."""

ON_DEMAND: Mapping[str, tuple[str, str]] = {
    "G": ("L-DB2E81BA", "Running On-Demand G and VT instances"),
    "P": ("L-417A185B", "Running On-Demand P instances"),
    "P5": ("L-417A185B", "Running On-Demand P instances"),
    "standard": ("L-1216C47A", "Running On-Demand Standard instances"),
}
SPOT: Mapping[str, tuple[str, str]] = {
    "G": ("L-3819A6DF", "All G and VT Spot Instance Requests"),
    "P": ("L-7212CCBC", "All P4, P3 and P2 Spot Instance Requests"),
    "P5": ("L-C4BD4855", "All P5 Spot Instance Requests"),
    "standard": ("L-34B43A08", "All Standard Spot Instance Requests"),
}
"""Code and name of the quota of a family, counted in vCPUs."""


def table_price(name: str, region: str) -> float | None:
    """Return USD per hour on demand by the table, rather too much than too little; None: unknown."""
    kind, factor = KINDS.get(name), FACTORS.get(region)
    return round(kind.price * factor, 4) if kind and factor else None
