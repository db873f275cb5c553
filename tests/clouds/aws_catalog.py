"""What the local AWS has: regions with their zones and networks, types of instance, images, prices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

UBUNTU = "/aws/service/canonical/ubuntu/server/24.04/stable/current/amd64/hvm/ebs-gp3/ami-id"
DLAMI = "/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-24.04/latest/ami-id"
IMAGES = {
    "ami-0000000000000c4a1": (
        "ubuntu/images/hvm-ssd-gp3/ubuntu-noble-24.04-amd64-server-20261101",
        8,
    ),
    "ami-0000000000000d1a1": (
        "Deep Learning Base OSS Nvidia Driver GPU AMI (Ubuntu 24.04) 20261101",
        75,
    ),
}
PARAMETERS = {UBUNTU: "ami-0000000000000c4a1", DLAMI: "ami-0000000000000d1a1"}


@dataclass(kw_only=True)
class Type:
    """A type of instance; a test may change it."""

    name: str
    vcpus: int
    price: float
    smi: str = ""
    gpus: int = 0
    zones: str = "abc"
    """In which zones it is."""


@dataclass(kw_only=True)
class Region:
    """A region with a VPC of its own."""

    name: str
    zones: str = "abc"
    default_vpc: bool = True
    without_subnet: str = ""
    """Zones that have no subnet."""
    way_out: Mapping[str, str] = field(default_factory=lambda: {"GatewayId": "igw-0a1"})
    """What the default route of its subnets names."""
    without_route: str = ""
    """Zones whose subnet does not lead to the Internet."""
    groups: dict[str, dict[str, Any]] = field(default_factory=dict)
    fails: str = ""
    """The code with which it refuses everything."""

    @property
    def vpc(self) -> str:
        """The id of its VPC."""
        return f"vpc-{self.name.replace('-', '')}"

    def subnets(self) -> dict[str, str]:
        """Return the zone of each subnet."""
        letters = [zone for zone in self.zones if zone not in self.without_subnet]
        return {self.subnet(letter): f"{self.name}{letter}" for letter in letters}

    def subnet(self, letter: str) -> str:
        """Return the id of the subnet of a zone."""
        return f"subnet-{self.name.replace('-', '')}{letter}"


def types() -> dict[str, Type]:
    """Return the types by name: a part of what AWS has, and not in every zone."""
    t4, a10 = "Tesla T4, 15360", "NVIDIA A10G, 23028"
    found = [
        Type(name="m7i.large", vcpus=2, price=0.1008),
        Type(name="m7i.xlarge", vcpus=4, price=0.2016),
        Type(name="c7i.xlarge", vcpus=4, price=0.1785),
        Type(name="g4dn.xlarge", vcpus=4, price=0.526, smi=t4, gpus=1),
        Type(name="g5.xlarge", vcpus=4, price=1.006, smi=a10, gpus=1, zones="ab"),
        Type(name="g5.12xlarge", vcpus=48, price=5.672, smi=a10, gpus=4, zones="b"),
        Type(
            name="p4d.24xlarge", vcpus=96, price=21.9576, smi="NVIDIA A100-SXM4-40GB, 40960", gpus=8
        ),
    ]
    return {one.name: one for one in found}


QUOTAS = {
    "L-DB2E81BA": 64.0,
    "L-417A185B": 192.0,
    "L-1216C47A": 128.0,
    "L-3819A6DF": 64.0,
    "L-7212CCBC": 0.0,
    "L-C4BD4855": 0.0,
    "L-34B43A08": 128.0,
}


def regions() -> dict[str, Region]:
    """Return the regions by name."""
    return {name: Region(name=name) for name in ("us-east-1", "eu-central-1")}
