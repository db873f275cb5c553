"""Where things are at Azure Resource Manager: paths, versions, and lists in pages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx

from blocks.providers.api import Api
from blocks.providers.azure.answers import data_of
from blocks.providers.cloud import rows_in
from trainer.contract.errors import ProviderError

MACHINES = "Microsoft.Compute/virtualMachines"
DISKS = "Microsoft.Compute/disks"
CARDS = "Microsoft.Network/networkInterfaces"
ADDRESSES = "Microsoft.Network/publicIPAddresses"
NETWORKS = "Microsoft.Network/virtualNetworks"
FIREWALLS = "Microsoft.Network/networkSecurityGroups"
SCHEDULES = "Microsoft.DevTestLab/schedules"
VERSIONS = {
    MACHINES: "2026-04-01",
    DISKS: "2025-01-02",
    CARDS: "2024-05-01",
    ADDRESSES: "2024-05-01",
    NETWORKS: "2024-05-01",
    FIREWALLS: "2024-05-01",
    SCHEDULES: "2018-09-15",
    "skus": "2021-07-01",
    "usages": "2026-04-01",
    "resourceGroups": "2021-04-01",
    "permissions": "2022-04-01",
}
"""The api-version of each kind of resource."""
NETWORK_VERSION = "2022-11-01"
"""By which Azure reads the network part of an order for a machine: of two that it takes, the later."""
MOST_PAGES = 1000  # a list whose pages never end must not be followed for ever


@dataclass(frozen=True, slots=True)
class Group:
    """A resource group of a subscription."""

    subscription: str
    name: str

    @property
    def path(self) -> str:
        """Its path, and the id of the resource that it is."""
        return f"{self.account}/resourceGroups/{quote(self.name, safe='')}"

    @property
    def account(self) -> str:
        """The path of its subscription."""
        return f"/subscriptions/{quote(self.subscription, safe='')}"

    def of(self, kind: str, name: str = "") -> str:
        """Return the path of a resource in it, or of all of a kind."""
        whole = f"{self.path}/providers/{kind}"
        return f"{whole}/{quote(name, safe='')}" if name else whole

    def __str__(self) -> str:
        return f"{self.subscription}/{self.name}"


@dataclass(frozen=True, slots=True)
class MachineId:
    """Where a machine is: its name, with the group that it was hired in.

    The id of an instance holds all three, so that another setting of today leaves a machine of
    yesterday within reach.
    """

    group: Group
    name: str

    @classmethod
    def read(cls, id: str, usual: Group) -> MachineId:
        """Return the place that an id names; one without a group is in the usual one."""
        parts = id.split("/")
        if len(parts) == 3 and all(parts):
            return cls(Group(parts[0], parts[1]), parts[2])
        return cls(usual, id)

    @property
    def id(self) -> str:
        """What the instance is called by us."""
        return f"{self.group}/{self.name}"

    @property
    def path(self) -> str:
        """The path of the machine."""
        return self.group.of(MACHINES, self.name)

    @property
    def schedule(self) -> str:
        """The path of the schedule that shuts it down; Azure knows it by this name only."""
        return self.group.of(SCHEDULES, schedule_name(self.name))


def schedule_name(machine: str) -> str:
    """Return the name that the schedule of a machine must have."""
    return f"shutdown-computevm-{machine}"


def version(kind: str) -> dict[str, str]:
    """Return the parameter that every call needs."""
    return {"api-version": VERSIONS[kind]}


async def pages(
    api: Api,
    path: str,
    params: Mapping[str, str],
    *,
    items: str = "value",
    link: str = "nextLink",
) -> list[dict[str, Any]]:
    """Return the rows of all pages of a list.

    Raises:
        ProviderError: a page is not as it is described, or the next one is on another host: our
            token goes to no other.
    """
    rows: list[dict[str, Any]] = []
    call = f"GET {path}"
    query: Mapping[str, str] | None = params
    for _ in range(MOST_PAGES):
        page = data_of(await api.call("GET", path, params=query))
        rows += rows_in("Azure", call, page.get(items))
        following = page.get(link)
        if following is None or following == "":
            return rows
        path, query = _on_our_host(api, call, following), None
    raise ProviderError(f"Azure's answer to {call} has more than {MOST_PAGES} pages.")


def _on_our_host(api: Api, call: str, link: Any) -> str:
    """Return the path of a whole URL, which must be of the API that gave it."""
    base = httpx.URL(api.base_url)
    try:
        url = httpx.URL(link)
    except (TypeError, httpx.InvalidURL):
        url = httpx.URL("")
    same = (url.scheme, url.host, url.port) == (base.scheme, base.host, base.port)
    path = url.raw_path.decode("ascii")
    if not same or not path.startswith(base.path.rstrip("/") + "/"):
        raise ProviderError(
            f"Azure's answer to {call} goes on at {str(link)[:200]!r}, which is not {base.host}."
        )
    return path.removeprefix(base.path.rstrip("/"))
