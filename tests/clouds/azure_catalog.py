"""What the local Azure has for hire: sizes, quotas and retail prices."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

LOCATIONS = ("westeurope", "swedencentral")
DISK_PRICE = 0.075 / 730  # USD per GiB and hour
ADDRESS_PRICE = 0.005  # USD per hour


@dataclass(kw_only=True)
class Size:
    """A size of machine; a test may change its price and what restricts it."""

    name: str
    family: str
    vcpus: int
    price: float
    """USD per hour."""
    gpus: int = 0
    ram_gb: float = 32
    smi: str = ""
    """What nvidia-smi says of one of its GPUs."""
    spot: bool = True
    zones: list[str] = field(default_factory=lambda: ["1", "2", "3"])
    architecture: str = "x64"
    restricted: dict[str, list[str]] = field(default_factory=dict)
    """By location: the zones that are closed to the subscription; none of them: all of it is."""

    @property
    def spot_price(self) -> float:
        return round(self.price * 0.3, 4)

    def row(self, location: str) -> dict[str, Any]:
        """Return it as a row of the list of SKUs."""
        facts = {
            "MaxResourceVolumeMB": "1048576",
            "vCPUs": str(self.vcpus),
            "HyperVGenerations": "V2",
            "MemoryGB": f"{self.ram_gb:g}",
            "CpuArchitectureType": self.architecture,
            "LowPriorityCapable": str(self.spot),
            **({"GPUs": str(self.gpus)} if self.gpus else {}),
        }
        return {
            "resourceType": "virtualMachines",
            "name": self.name,
            "tier": "Standard",
            "size": self.name.removeprefix("Standard_"),
            "family": self.family,
            "locations": [location],
            "locationInfo": [{"location": location, "zones": self.zones, "zoneDetails": []}],
            "capabilities": [{"name": name, "value": value} for name, value in facts.items()],
            "restrictions": [*self._restrictions(location)],
        }

    def _restrictions(self, location: str) -> Iterator[dict[str, Any]]:
        zones = self.restricted.get(location)
        if zones is None:
            return
        yield {
            "type": "Zone" if zones else "Location",
            "values": [location],
            "restrictionInfo": {"locations": [location], "zones": zones},
            "reasonCode": "NotAvailableForSubscription",
        }

    def prices(self, location: str) -> Iterator[dict[str, Any]]:
        """Yield its rows of the price list: three for Linux, one for Windows."""
        for words, price, windows in (
            ("", self.price, False),
            (" Spot", self.spot_price, False),
            (" Low Priority", self.price / 5, False),
            ("", self.price * 1.5, True),
        ):
            yield {
                "currencyCode": "USD",
                "tierMinimumUnits": 0.0,
                "retailPrice": price,
                "unitPrice": price,
                "armRegionName": location,
                "armSkuName": self.name,
                "skuName": f"{self.name.removeprefix('Standard_')}{words}",
                "productName": f"Virtual Machines {self.family}{' Windows' if windows else ''}",
                "serviceName": "Virtual Machines",
                "unitOfMeasure": "1 Hour",
                "type": "Consumption",
            }


def catalog() -> dict[str, Size]:
    """Return the sizes by name."""
    sizes = [
        Size(
            name="Standard_NC24ads_A100_v4",
            family="standardNCADSA100v4Family",
            vcpus=24,
            price=3.673,
            gpus=1,
            ram_gb=220,
            smi="NVIDIA A100 80GB PCIe, 81920",
        ),
        Size(
            name="Standard_NC48ads_A100_v4",
            family="standardNCADSA100v4Family",
            vcpus=48,
            price=7.346,
            gpus=2,
            ram_gb=440,
            smi="NVIDIA A100 80GB PCIe, 81920",
        ),
        Size(
            name="Standard_NC4as_T4_v3",
            family="Standard NCASv3_T4 Family",
            vcpus=4,
            price=0.526,
            gpus=1,
            ram_gb=28,
            smi="Tesla T4, 15360",
        ),
        Size(
            name="Standard_NC8as_T4_v3",
            family="Standard NCASv3_T4 Family",
            vcpus=8,
            price=0.752,
            gpus=1,
            ram_gb=56,
            smi="Tesla T4, 15360",
        ),
        # A part of a GPU, and another driver.
        Size(
            name="Standard_NV6ads_A10_v5",
            family="StandardNVADSA10v5Family",
            vcpus=6,
            price=0.454,
            gpus=1,
            ram_gb=55,
            smi="NVIDIA A10-4Q, 4096",
        ),
        Size(name="Standard_D4s_v5", family="standardDSv5Family", vcpus=4, price=0.192, ram_gb=16),
        Size(name="Standard_B2s", family="standardBSFamily", vcpus=2, price=0.042, ram_gb=4),
        Size(
            name="Standard_D4ps_v5",
            family="standardDPSv5Family",
            vcpus=4,
            price=0.154,
            ram_gb=16,
            architecture="Arm64",
        ),
    ]
    return {size.name: size for size in sizes}


def limits() -> dict[str, int]:
    """Return the quotas of a location in vCPUs, by name."""
    families = {size.family: 96 for size in catalog().values()}
    return {"cores": 200, "lowPriorityCores": 96, **families}
