"""Azure's retail prices, which it says without a login."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from blocks.providers.api import Api
from blocks.providers.azure.resources import pages
from blocks.uptime import uptime
from trainer.contract.errors import OrchestratorError

logger = logging.getLogger(__name__)

DAY = 86_400.0  # seconds for which a price is believed
AWAY_SECONDS = 300.0  # for which a list that did not answer is left alone
PATH = "/api/retail/prices"
AT_ONCE = 15  # sizes that one question names: its filter is a part of the URL

Key = tuple[str, str, bool]
"""Location, size, and whether it is a spot machine."""

_known: dict[str, tuple[float, dict[Key, float]]] = {}
"""What was read of a list, by URL and location, and when, as `uptime`."""


_away: dict[str, float] = {}
"""When a list did not answer, as `uptime`, by the same names."""


async def prices_in(api: Api, location: str, sizes: Sequence[str]) -> dict[Key, float]:
    """Return USD per hour by size, of a location; what nobody says is missing or 0.

    A price list that cannot be read keeps nobody from hiring: what it costs counts as unknown.
    """
    name = f"{api.base_url} {location}"
    since, known = _known.get(name, (0.0, {}))
    missing = [size for size in sizes if (location, size, False) not in known]
    if uptime() - since > DAY:
        known, missing = {}, list(sizes)
    if not missing or uptime() - _away.get(name, -AWAY_SECONDS) < AWAY_SECONDS:
        return known
    try:
        for at in range(0, len(missing), AT_ONCE):
            known = known | await _asked(api, location, missing[at : at + AT_ONCE])
    except OrchestratorError as error:
        logger.warning("Azure's prices are not known: %s", error.message)
        # Not asked for again at once: every search would wait for what does not answer.
        _away[name] = uptime()
        return known
    _known[name] = uptime(), known
    return known


async def _asked(api: Api, location: str, sizes: Sequence[str]) -> dict[Key, float]:
    named = " or ".join(f"armSkuName eq '{size}'" for size in sizes)
    params = {
        "currencyCode": "USD",
        "$filter": (
            f"serviceName eq 'Virtual Machines' and priceType eq 'Consumption' "
            f"and armRegionName eq '{location}' and ({named})"
        ),
    }
    # What the list does not have is not asked for again today either.
    found: dict[Key, float] = {(location, size, False): 0.0 for size in sizes}
    rows = await pages(api, PATH, params, items="Items", link="NextPageLink")
    for row in rows:
        if price := _price(row):
            found[location, str(row.get("armSkuName")), _is_spot(row)] = price
    return found


def _price(row: Mapping[str, Any]) -> float:
    """Return what a row says for Linux, per hour; 0 for what is something else."""
    price = row.get("retailPrice")
    names = f"{row.get('productName')} {row.get('skuName')}"
    if isinstance(price, bool) or not isinstance(price, (int, float)) or price <= 0:
        return 0.0
    # Low Priority is what spot machines were called: nothing is sold under that name any more.
    other = "Windows" in names or "Low Priority" in names or row.get("unitOfMeasure") != "1 Hour"
    return 0.0 if other or row.get("currencyCode") != "USD" else float(price)


def _is_spot(row: Mapping[str, Any]) -> bool:
    return "Spot" in str(row.get("skuName"))
