"""The network of a location, which all machines of an installation there share: made once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from blocks.providers.api import Api
from blocks.providers.azure import orders
from blocks.providers.azure.answers import GroupMissing, data_of, error_of, is_absent, part, text
from blocks.providers.azure.resources import FIREWALLS, NETWORKS, Group, version
from blocks.providers.cloud import as_described
from trainer.contract.errors import RateLimited

MADE_SECONDS = 120.0  # for a network to be made
LOOK_SECONDS = 0.5

_made: set[tuple[str, Group, str, tuple[str, ...], int]] = set()  # that this process has seen


async def have_network(
    api: Api, group: Group, location: str, sources: Sequence[str], port: int
) -> None:
    """See that a location has its network, behind a firewall that lets SSH in from `sources`.

    Without sources a firewall that is there stays as it is: other machines may be reached over SSH.

    Raises:
        OrchestratorError: it cannot be made.
        RateLimited: it is not made yet, or something else is at work there.
    """
    known = (api.base_url, group, location, tuple(sources), port)
    if known in _made:
        return
    name = orders.network_name(location)
    wanted = orders.firewall(location, sources, port)
    guard = group.of(FIREWALLS, name)
    found = await _found(api, FIREWALLS, guard)
    with as_described("Azure", f"GET {guard}"):
        stale = found is None or (bool(sources) and _lets_in(found) != _lets_in(wanted))
    if stale:  # the setting may have changed since it was made
        await _put(api, group, location, FIREWALLS, guard, wanted)
    net = group.of(NETWORKS, name)
    if await _found(api, NETWORKS, net) is None:
        await _put(api, group, location, NETWORKS, net, orders.network(group, location))
    _made.add(known)


async def _found(api: Api, kind: str, path: str) -> dict[str, Any] | None:
    answer = await api.call("GET", path, params=version(kind))
    return None if is_absent(answer) else data_of(answer)


async def _put(
    api: Api, group: Group, location: str, kind: str, path: str, body: dict[str, Any]
) -> None:
    try:
        await _sent(api, kind, path, body)
    except GroupMissing:
        made = {"location": location, "tags": orders.own()}
        data_of(await api.call("PUT", group.path, params=version("resourceGroups"), body=made))
        await _sent(api, kind, path, body)


async def _sent(api: Api, kind: str, path: str, body: dict[str, Any]) -> None:
    answer = await api.call("PUT", path, params=version(kind), body=body)
    deadline = time.monotonic() + MADE_SECONDS
    while True:
        if not answer.ok:
            raise error_of(answer)
        with as_described("Azure", f"PUT {path}"):
            if text(part(data_of(answer), "properties"), "provisioningState") == "Succeeded":
                return
        if time.monotonic() > deadline:
            raise RateLimited(f"Azure: {path} is not made after {MADE_SECONDS:g} s.")
        await asyncio.sleep(LOOK_SECONDS)
        answer = await api.call("GET", path, params=version(kind))


def _lets_in(firewall: dict[str, Any]) -> list[tuple[str, str, tuple[str, ...]]]:
    """Return what the rules of a firewall let in, by port and source."""
    rules = part(firewall, "properties").get("securityRules") or ()
    return sorted(
        (
            text(rule, "name"),
            text(rule, "properties", "destinationPortRange"),
            tuple(
                part(rule, "properties").get("sourceAddressPrefixes")
                or [text(rule, "properties", "sourceAddressPrefix")]
            ),
        )
        for rule in rules
    )
