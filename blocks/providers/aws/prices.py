"""What an hour costs: on demand by the Pricing API or the table in the package, spot by its history."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from blocks.providers.aws.client import Aws
from blocks.providers.aws.kinds import table_price
from blocks.task_scope import all_of
from trainer.contract.errors import OrchestratorError

logger = logging.getLogger(__name__)

DAY = 86_400.0
AGAIN_SECONDS = 900.0  # until the Pricing API is asked again after it refused or failed
SPOT_SECONDS = 60.0  # how old a spot price may be
LINUX = {
    "operatingSystem": "Linux",
    "tenancy": "Shared",
    "preInstalledSw": "NA",
    "capacitystatus": "Used",
}

_known: dict[tuple[str, str, str], tuple[float, float | None]] = {}  # until when, and the price


async def on_demand(aws: Aws, names: Iterable[str]) -> dict[str, float | None]:
    """Return USD per hour of types in a region; None: neither the API nor the table says."""
    wanted = sorted(set(names))
    prices = await all_of(_on_demand(aws, name) for name in wanted)
    return dict(zip(wanted, prices, strict=True))


async def _on_demand(aws: Aws, name: str) -> float | None:
    key = (aws.identity, aws.region, name)
    until, price = _known.get(key, (0.0, None))
    if time.monotonic() < until:
        return price
    if is_refused(aws):
        return table_price(name, aws.region)
    try:
        price, seconds = await _listed(aws, name), DAY
    except OrchestratorError as error:
        # Permission for it is optional, and an estimate is worth more than no offer.
        logger.info("prices are those of the table: %s", error.message)
        _known[aws.identity, "", ""] = (time.monotonic() + AGAIN_SECONDS, None)
        return table_price(name, aws.region)
    if price is None:
        price = table_price(name, aws.region)
    _known[key] = (time.monotonic() + seconds, price)
    return price


def is_refused(aws: Aws) -> bool:
    """Whether the Pricing API does not answer this account, so that the table has to do."""
    return time.monotonic() < _known.get((aws.identity, "", ""), (0.0, None))[0]


async def _listed(aws: Aws, name: str) -> float | None:
    """Return the price as the Pricing API has it, which is JSON in strings in JSON."""
    terms = {**LINUX, "instanceType": name, "regionCode": aws.region}
    filters = [
        {"Type": "TERM_MATCH", "Field": field, "Value": value} for field, value in terms.items()
    ]
    request = {"ServiceCode": "AmazonEC2", "Filters": filters}
    answer = await aws.ask("pricing", "GetProducts", request)
    found: list[float] = []
    products = answer.get("PriceList")
    for text in products if isinstance(products, list) else []:
        try:
            found += _in_product(json.loads(text))
        except (AttributeError, LookupError, TypeError, ValueError):
            continue
    return min(found, default=None)


def _in_product(product: Any) -> list[float]:
    terms = product["terms"]["OnDemand"].values()
    prices = [
        float(dimension["pricePerUnit"]["USD"])
        for term in terms
        for dimension in term["priceDimensions"].values()
        if dimension.get("unit") == "Hrs"
    ]
    return [price for price in prices if 0 < price < 10_000]


async def spot(aws: Aws, names: Iterable[str]) -> dict[tuple[str, str], float]:
    """Return the newest USD per hour of spot machines, by type and zone; no price, no market."""
    wanted = sorted(set(names))

    async def fetch() -> dict[tuple[str, str], float]:
        rows = await aws.rows(
            "DescribeSpotPriceHistory",
            {
                "InstanceTypes": wanted,
                "ProductDescriptions": ["Linux/UNIX"],
                "StartTime": datetime.now(UTC),  # only what is in force now
                "MaxResults": 1000,
            },
            "SpotPriceHistory",
        )
        found: dict[tuple[str, str], tuple[datetime, float]] = {}
        for row in rows:
            try:
                key = (str(row["InstanceType"]), str(row["AvailabilityZone"]))
                entry = (row["Timestamp"], float(row["SpotPrice"]))
                if 0 < entry[1] < 10_000 and (key not in found or found[key] < entry):
                    found[key] = entry
            except (LookupError, TypeError, ValueError):
                continue
        return {key: price for key, (_, price) in found.items()}

    return await aws.shared(f"spot {wanted}", SPOT_SECONDS, fetch)
