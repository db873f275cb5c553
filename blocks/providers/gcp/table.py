"""The kinds of machines that are hired at Compute Engine, where they are, and their list prices.

The catalogue of prices is behind an API key of its own and takes thousands of rows to make one
price. So a table is shipped, which has a date.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

_TABLE: Mapping[str, Any] = json.loads(
    files("blocks.providers.gcp").joinpath("prices.json").read_text(encoding="utf-8")
)
PRICES_OF: str = _TABLE["date"]
"""The day of the table."""
TYPE_OF_DISK = {"a3-ultragpu": "hyperdisk-balanced"}
"""Where machines of a family take no pd-balanced."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineKind:
    """A kind of machine, GPUs included."""

    machine: str
    """The machine type."""
    place: str
    """By which the zones that have it are found."""
    vcpus: int
    ram_gb: float
    usd: float
    """Per hour in the region whose factor is 1."""
    spot_usd: float | None
    spot_only: bool = False
    """Whether Google hires it out as a machine that may be taken back, and not otherwise."""
    gpu: str | None = None
    count: int = 0
    vram_gb: float = 0.0
    metric: str = ""
    """The quota that its GPUs are counted by; empty: a project's quota alone."""
    accelerator: str = ""
    """The type of GPU to attach; empty where the machine type has its own."""


KINDS = {name: MachineKind(**row) for name, row in _TABLE["kinds"].items()}
"""By our word for them: the machine type, with the GPUs that are attached to it."""


def zones_of(kind: MachineKind) -> list[str]:
    """Return the zones that have some, by the table."""
    regions: Mapping[str, str] = _TABLE["zones"][kind.place]
    return [f"{region}-{letter}" for region, letters in regions.items() for letter in letters]


def region_of(zone: str) -> str:
    """Return the region of a zone."""
    return zone.rpartition("-")[0]


def price_in(kind: MachineKind, region: str, *, spot: bool) -> float | None:
    """Return USD per hour, without disk and address; None where the table does not say."""
    base, factor = kind.spot_usd if spot else kind.usd, _TABLE["factors"].get(region)
    return None if base is None or factor is None else round(base * factor, 5)


def extras_of(disk_gb: float, *, spot: bool, public: bool) -> dict[str, Any]:
    """Return what is billed beside the price of a machine, as fields of an offer or an instance.

    Args:
        disk_gb: of its disks.
        spot: whether it may be taken back; its address costs less then.
        public: whether it has an address of its own.
    """
    address = _TABLE["spot_address_usd"] if spot else _TABLE["address_usd"]
    return {
        "storage_gb": float(disk_gb),
        "storage_price": _TABLE["disk_usd_per_gb_month"],
        "beside_per_hour": address if public else 0.0,
        "traffic_price": _TABLE["traffic_usd_per_gb"],
    }
