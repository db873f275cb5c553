"""Hosts that failed lately, and are avoided for a while: a broken one is often the cheapest."""

from __future__ import annotations

import time
from pathlib import Path

from blocks.home import home
from blocks.models import Offer
from flows.full_disk import save_anyway
from flows.locks import briefly_locked
from trainer.contract.files import read_json

# Nobody hires a broken host twice, so it stays on offer, often as the cheapest. An hour is long
# enough for a job to find another one, and short enough for a host that was only restarting.
AVOID_SECONDS = 3600.0


def remember(provider: str, host: str) -> None:
    """Avoid a host of a provider for an hour; without a name there is nothing to avoid."""
    if host:
        # Other runs note theirs at the same time.
        with briefly_locked(home() / "bad-hosts.lock"):
            until = time.time() + AVOID_SECONDS
            save_anyway(_path(), {**_known(), f"{provider} {host}": until})


def is_bad(provider: str, offer: Offer) -> bool:
    """Whether the host of an offer failed within the last hour."""
    return bool(offer.host) and f"{provider} {offer.host}" in _known()


def _known() -> dict[str, float]:
    """Return the hosts to avoid and until when (Unix seconds), without those whose time is up."""
    now = time.time()
    found = read_json(_path()) or {}
    # A clock that jumped back must not make a host bad for years.
    return {
        name: float(until)
        for name, until in found.items()
        if isinstance(until, int | float) and now < until <= now + AVOID_SECONDS
    }


def _path() -> Path:
    return home() / "bad-hosts.json"
