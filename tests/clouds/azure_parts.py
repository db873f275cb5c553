"""What belongs to a machine of the local Azure and may outlive it: disk, card, address, schedule."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.clouds.azure_catalog import ADDRESS_PRICE, DISK_PRICE

DISKS, CARDS, ADDRESSES = "disks", "networkInterfaces", "publicIPAddresses"
TYPES = {
    DISKS: "Microsoft.Compute/disks",
    CARDS: "Microsoft.Network/networkInterfaces",
    ADDRESSES: "Microsoft.Network/publicIPAddresses",
}


@dataclass(kw_only=True)
class Part:
    """A resource that was made with a machine."""

    kind: str
    name: str
    location: str
    tags: dict[str, str]
    machine: str
    """The id of the machine that it was made with."""
    goes_along: bool
    """Whether its deleteOption is Delete."""
    facts: dict[str, Any] = field(default_factory=dict)
    attached: bool = True
    created: float = field(default_factory=time.time)
    ended: float | None = None

    @property
    def price(self) -> float:
        """USD per hour; cards cost nothing."""
        if self.kind == DISKS:
            return float(self.facts["size"]) * DISK_PRICE
        return ADDRESS_PRICE if self.kind == ADDRESSES else 0.0

    def bill(self, now: float) -> float:
        """Return what it cost, in USD."""
        return self.price * ((self.ended or now) - self.created) / 3600


def parts_of(asked: Mapping[str, Any], name: str, machine: str, address: str) -> list[Part]:
    """Return what an order of a machine makes beside it.

    Args:
        asked: its body.
        name: the machine's.
        machine: its id.
        address: where it will be reached.
    """
    location, facts = asked["location"].lower(), asked["properties"]
    disk = facts["storageProfile"]["osDisk"]
    found = [
        Part(
            kind=DISKS,
            name=disk.get("name", f"{name}_OsDisk_1_{secrets.token_hex(4)}"),
            location=location,
            tags={},
            machine=machine,
            goes_along=disk.get("deleteOption") == "Delete",
            facts={"size": disk.get("diskSizeGB", 64)},
        )
    ]
    for card in facts["networkProfile"]["networkInterfaceConfigurations"]:
        inner = card["properties"]["ipConfigurations"][0]["properties"]
        # Azure adds letters of its own to the names that an order has.
        own = f"{card['name']}-{secrets.token_hex(4)}"
        public = inner.get("publicIPAddressConfiguration")
        if public:
            found.append(
                Part(
                    kind=ADDRESSES,
                    name=f"{public['name']}-{secrets.token_hex(4)}",
                    location=location,
                    tags=dict(public.get("tags") or {}),
                    machine=machine,
                    goes_along=public["properties"].get("deleteOption") == "Delete",
                    facts={"address": address, "card": own},
                )
            )
        found.append(
            Part(
                kind=CARDS,
                name=own,
                location=location,
                tags=dict(card.get("tags") or {}),
                machine=machine,
                goes_along=card["properties"].get("deleteOption") == "Delete",
                facts={"address": found[-1].name if public else "", "private": address},
            )
        )
    return found


def json_of(part: Part, group: str, vm_id: str, *, shown: bool) -> dict[str, Any]:
    """Return a part as its list has it.

    Args:
        part: which.
        group: the path of its resource group.
        vm_id: the path of its machine.
        shown: whether an address is there already.
    """

    def path(kind: str, name: str) -> str:
        return f"{group}/providers/{TYPES[kind]}/{name}"

    own: dict[str, Any] = {"provisioningState": "Succeeded"}
    match part.kind:
        case "disks":
            made = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(part.created))
            own |= {
                "timeCreated": made,
                "diskSizeGB": part.facts["size"],
                "diskState": "Attached" if part.attached else "Unattached",
                "creationData": {"createOption": "FromImage"},
            }
        case "networkInterfaces":
            address = part.facts["address"]
            inner: dict[str, Any] = {"privateIPAddress": part.facts["private"], "primary": True}
            if address:
                inner["publicIPAddress"] = {"id": path(ADDRESSES, address)}
            own["ipConfigurations"] = [{"name": "ip", "properties": inner}]
            if part.attached:
                own["virtualMachine"] = {"id": vm_id}
        case _:
            own["publicIPAllocationMethod"] = "Static"
            if shown:
                own["ipAddress"] = part.facts["address"]
            if part.attached:
                card = path(CARDS, part.facts["card"])
                own["ipConfiguration"] = {"id": f"{card}/ipConfigurations/ip"}
    return {
        "id": path(part.kind, part.name),
        "name": part.name,
        "type": TYPES[part.kind],
        "location": part.location,
        "tags": part.tags,
        **({"managedBy": vm_id} if part.kind == DISKS and part.attached else {}),
        "properties": own,
    }


@dataclass(kw_only=True)
class Schedule:
    """A schedule that shuts a machine down at a time of day."""

    body: dict[str, Any]
    machine: str
    """The name of the machine that its name says."""
    due: float
    """Unix seconds, of the next time."""


def next_time(recurrence: str, now: float) -> float:
    """Return when a time of day in UTC comes next, in Unix seconds."""
    day = now - now % 86_400
    at = day + int(recurrence[:2]) * 3600 + int(recurrence[2:]) * 60
    return at if at > now else at + 86_400
