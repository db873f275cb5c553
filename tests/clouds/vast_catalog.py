"""What hosts rent out at the local Vast.ai, and how a search finds it."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

MOST_ROWS = 64
HOURS_PER_MONTH = 730.0
CONTROLS = {"type", "order", "limit", "allocated_storage"}
OPERATORS: Mapping[str, Callable[[Any, Any], bool]] = {
    "eq": operator.eq,
    "neq": operator.ne,
    "gt": operator.gt,
    "gte": operator.ge,
    "lt": operator.lt,
    "lte": operator.le,
    "in": lambda value, names: value in names,
    "notin": lambda value, names: value not in names,
}


@dataclass(kw_only=True)
class Ask:
    """An offer of a host; a test may change it at any time."""

    id: int
    gpu_name: str
    gpu_ram: int
    """MB, with the number that nvidia-smi prints for MiB."""
    price: float
    """USD per hour without the disk."""
    min_bid: float
    num_gpus: int = 1
    machine_id: int = 0
    storage_cost: float = 0.15
    inet_up_cost: float = 0.0
    """USD for a GB that leaves the host."""
    """USD per GB and month."""
    disk_space: float = 500.0
    reliability: float = 0.995
    inet_down: float = 900.0
    cuda_max_good: float = 12.8
    cpu_ram: int = 128_000
    cpu_arch: str | None = "amd64"
    direct_port_count: int = 99
    geolocation: str | None = "Washington, US"
    duration: float = 30 * 86_400.0
    verified: bool = True
    external: bool | None = False
    rented: bool = False

    def row(self, disk: float, *, bid: bool) -> dict[str, Any]:
        """Return it as a search does."""
        storage = self.storage_cost * disk / HOURS_PER_MONTH
        base = self.min_bid if bid else self.price
        return {
            "id": self.id,
            "ask_contract_id": self.id,
            "bundle_id": self.id + 10**6,
            "machine_id": self.machine_id or self.id,
            "host_id": 7,
            "gpu_name": self.gpu_name,
            "num_gpus": self.num_gpus,
            "gpu_ram": self.gpu_ram,
            "gpu_total_ram": self.gpu_ram * self.num_gpus,
            "cpu_cores": None,
            "cpu_ram": self.cpu_ram,
            "disk_space": self.disk_space,
            "dph_base": base,
            "dph_total": base + storage,
            "min_bid": self.min_bid,
            "storage_cost": self.storage_cost,
            "storage_total_cost": storage,
            "inet_up": 500.0,
            "inet_up_cost": self.inet_up_cost,
            "inet_down": self.inet_down,
            "reliability": self.reliability,
            "reliability2": self.reliability,
            "cuda_max_good": self.cuda_max_good,
            "driver_version": "570.86.15",
            "direct_port_count": self.direct_port_count,
            "geolocation": self.geolocation,
            "verification": "verified" if self.verified else "unverified",
            "rentable": not self.rented,
            "rented": self.rented,
            "is_bid": bid,
            "public_ipaddr": "127.0.0.1\n",
            "duration": self.duration,
            "cpu_arch": self.cpu_arch,
        }


def catalog() -> dict[int, Ask]:
    """Return the offers by their ids; some have a fault that a search is to find."""
    asks = [
        Ask(id=101, gpu_name="RTX 4090", gpu_ram=24_564, price=0.36, min_bid=0.21),
        Ask(id=102, gpu_name="RTX 3090", gpu_ram=24_576, price=0.18, min_bid=0.12),
        Ask(id=103, gpu_name="A100 SXM4", gpu_ram=40_960, price=0.70, min_bid=0.40),
        Ask(id=104, gpu_name="A100 SXM4", gpu_ram=81_920, price=0.90, min_bid=0.50),
        Ask(
            id=105,
            gpu_name="H100 SXM",
            gpu_ram=81_559,
            price=2.0,
            min_bid=1.2,
            geolocation="Sweden, SE",
        ),
        Ask(id=106, gpu_name="RTX 4090", gpu_ram=24_564, price=0.72, min_bid=0.42, num_gpus=2),
        Ask(id=201, gpu_name="RTX 4090", gpu_ram=24_564, price=0.01, min_bid=0.01, verified=False),
        Ask(id=202, gpu_name="RTX 4090", gpu_ram=24_564, price=0.02, min_bid=0.01, reliability=0.7),
        Ask(id=203, gpu_name="RTX 4090", gpu_ram=24_564, price=0.03, min_bid=0.01, duration=600.0),
        Ask(id=204, gpu_name="RTX 4090", gpu_ram=24_564, price=0.04, min_bid=0.01, inet_down=20.0),
        Ask(
            id=205, gpu_name="GH200 SXM", gpu_ram=97_871, price=0.05, min_bid=0.01, cpu_arch="arm64"
        ),
        Ask(
            id=206, gpu_name="GTX 1080", gpu_ram=8_192, price=0.06, min_bid=0.01, cuda_max_good=12.2
        ),
        Ask(id=207, gpu_name="RTX 4090", gpu_ram=24_564, price=0.07, min_bid=0.01, rented=True),
    ]
    return {ask.id: ask for ask in asks}


def search(asks: Mapping[int, Ask], query: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the rows that a query finds, 64 at most.

    Raises:
        ValueError: it filters by an unknown column, or with an unknown operator.
    """
    bid = {"on-demand": False, "ondemand": False, "bid": True}[query.get("type", "on-demand")]
    disk = float(query.get("allocated_storage", 5.0))
    filters = {column: tests for column, tests in query.items() if column not in CONTROLS}
    rows = [ask.row(disk, bid=bid) for ask in asks.values()]
    found = [row for row, ask in zip(rows, asks.values(), strict=True) if _meets(row, ask, filters)]
    for column, direction in reversed(query.get("order", [["dph_total", "asc"]])):
        found.sort(key=itemgetter(column), reverse=direction == "desc")
    return found[: min(query.get("limit", MOST_ROWS), MOST_ROWS)]


def _meets(row: Mapping[str, Any], ask: Ask, filters: Mapping[str, Any]) -> bool:
    columns = {**row, "verified": ask.verified, "external": ask.external}
    columns["id"] = None  # nothing is found by it
    for column, tests in filters.items():
        if column not in columns or not isinstance(tests, dict) or set(tests) - set(OPERATORS):
            raise ValueError(column)
        value = columns[column]
        if not all(
            value is not None and OPERATORS[name](value, than) for name, than in tests.items()
        ):
            return False
    return True
