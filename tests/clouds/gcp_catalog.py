"""What the local Google Cloud has for hire, what it charges, and what a project may have."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import blocks

ZONES = {
    "us-central1": "abcf",
    "us-east1": "bcd",
    "europe-west4": "abc",
}
SMI = {
    "NVIDIA L4": "NVIDIA L4, 23034",
    "NVIDIA T4": "Tesla T4, 15360",
    "NVIDIA V100": "Tesla V100-SXM2-16GB, 16384",
    "NVIDIA A100 40GB": "NVIDIA A100-SXM4-40GB, 40960",
    "NVIDIA A100 80GB": "NVIDIA A100-SXM4-80GB, 81920",
    "NVIDIA H100 80GB": "NVIDIA H100 80GB HBM3, 81559",
    "NVIDIA H200": "NVIDIA H200, 143771",
}
"""What nvidia-smi says of one GPU."""
METRICS = ("NVIDIA_L4_GPUS", "NVIDIA_T4_GPUS", "NVIDIA_A100_GPUS")
# The prices are those of the product's table: no answer of the API says any.
_TABLE = json.loads(
    (Path(blocks.__file__).parent / "providers" / "gcp" / "prices.json").read_text()
)


def quotas() -> dict[str, dict[str, float]]:
    """Return the limits of a project by region; "" holds those of the whole project."""
    each = {name: 16.0 for metric in METRICS for name in (metric, f"PREEMPTIBLE_{metric}")}
    return {
        "": {"GPUS_ALL_REGIONS": 16.0, "CPUS_ALL_REGIONS": 512.0},
        **{region: dict(each) for region in ZONES},
    }


def kind_of(asked: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the row of the table that an insert asks for; None where it has none."""
    machine = asked["machineType"].rpartition("/")[2]
    given = {
        (one["acceleratorType"].rpartition("/")[2], one["acceleratorCount"])
        for one in asked.get("guestAccelerators", [])
    }
    for row in _TABLE["kinds"].values():
        own = {(row["accelerator"], row["count"])} if row.get("accelerator") else set()
        if row["machine"] == machine and own == given:
            return row
    return None


def price_of(row: Mapping[str, Any], region: str, *, spot: bool) -> float:
    """Return USD per hour, without disk and address."""
    return float(row["spot_usd" if spot else "usd"]) * float(_TABLE["factors"][region])


def is_spot(asked: Mapping[str, Any]) -> bool:
    """Whether an insert asks for a machine that may be taken back."""
    return asked.get("scheduling", {}).get("provisioningModel") == "SPOT"
