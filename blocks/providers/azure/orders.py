"""What is sent to Azure: the order of a machine, its network, and the schedule that ends it."""

from __future__ import annotations

import base64
import shlex
import time
from collections.abc import Mapping, Sequence
from typing import Any

from blocks.marks import PREFIX, Mark, installation_id
from blocks.models import Offer
from blocks.providers.azure.resources import (
    FIREWALLS,
    NETWORK_VERSION,
    NETWORKS,
    Group,
    MachineId,
)
from blocks.providers.by_store import Reached

MARK_TAG = "to-name"
PRICE_TAG = "to-price"
GPUS_TAG = "to-gpus"
BORN_TAG = "to-born"
MACHINE_TAG = "to-machine"
MAILBOX_TAG = "to-mailbox"
SUBNET = "machines"
LONGEST_SECONDS = 23.5 * 3600  # a schedule is a time of day: in 24 hours it would mean today


def own(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the tags of everything of ours, and further ones."""
    return {
        "managed-by": "training-orchestrator",
        "installation": installation_id(),
        **(extra or {}),
    }


def own_prefix() -> str:
    """Return how the names of all machines of this installation begin."""
    return f"{PREFIX}-{installation_id()}-"


def network_name(location: str) -> str:
    """Return what the network of a location is called, and the firewall in front of it."""
    return f"{own_prefix()}{location}"


def firewall(location: str, sources: Sequence[str], port: int) -> dict[str, Any]:
    """Return the order of a firewall that lets SSH in, from some networks only, or nothing at all."""
    rule = {
        "name": "ssh",
        "properties": {
            "protocol": "Tcp",
            "access": "Allow",
            "direction": "Inbound",
            "priority": 1000,
            "sourceAddressPrefixes": list(sources),
            "sourcePortRange": "*",
            "destinationAddressPrefix": "*",
            "destinationPortRange": str(port),
        },
    }
    rules = [rule] if sources else []
    return {"location": location, "tags": own(), "properties": {"securityRules": rules}}


def network(group: Group, location: str) -> dict[str, Any]:
    """Return the order of a network with one subnet, behind the firewall."""
    guard = {"id": group.of(FIREWALLS, network_name(location))}
    subnet = {
        "name": SUBNET,
        "properties": {"addressPrefix": "10.77.0.0/16", "networkSecurityGroup": guard},
    }
    return {
        "location": location,
        "tags": own(),
        "properties": {"addressSpace": {"addressPrefixes": ["10.77.0.0/16"]}, "subnets": [subnet]},
    }


def machine(
    place: MachineId,
    offer: Offer,
    mark: Mark,
    *,
    user: str,
    public_key: str,
    first_script: str,
    image: Mapping[str, str],
    identity: str,
    subnet: str,
    reached: Reached,
) -> dict[str, Any]:
    """Return the order of a machine, with its disk, its network card and its address.

    Args:
        place: where, and under which name.
        offer: what is ordered.
        mark: whose it is.
        user: whom it makes, to log in as.
        public_key: who may.
        first_script: sh that it runs as root.
        image: publisher, offer, sku and version.
        identity: the id of the managed identity by which it may end itself; empty: none.
        subnet: the id of the one where it stands; empty: of our own network in its location.
        reached: through what; with a mailbox it gets no address of its own.
    """
    born = {MACHINE_TAG: place.name, BORN_TAG: str(int(time.time()))}
    price = {} if offer.price_per_hour is None else {PRICE_TAG: f"{offer.price_per_hour:.6g}"}
    box = {MAILBOX_TAG: reached.mailbox} if reached.mailbox else {}
    tags = {MARK_TAG: str(mark), GPUS_TAG: str(offer.gpu_count), **price, **born, **box}
    scripts = [script for script in (first_script, reached.script) if script]
    net = subnet or f"{place.group.of(NETWORKS, network_name(offer.region))}/subnets/{SUBNET}"
    card = own({MARK_TAG: str(mark), **born})
    properties: dict[str, Any] = {
        "hardwareProfile": {"vmSize": offer.instance_type},
        "storageProfile": {
            "imageReference": dict(image),
            # The disk takes no tags here: its name says whose it is.
            "osDisk": {
                "name": f"{place.name}-disk",
                "createOption": "FromImage",
                "deleteOption": "Delete",
                "diskSizeGB": int(offer.storage_gb),
                "managedDisk": {"storageAccountType": "StandardSSD_LRS"},
            },
        },
        "osProfile": _system(place, user, public_key, scripts),
        "networkProfile": _cards(place, net, card, public=not reached.mailbox),
        # Written out: with secure boot NVIDIA's modules would not load.
        "securityProfile": {"securityType": "Standard"},
    }
    if offer.spot:
        # These are refused on a machine that is not spot.
        properties |= {
            "priority": "Spot",
            "evictionPolicy": "Delete",
            "billingProfile": {"maxPrice": -1},
        }
    body = {"location": offer.region, "tags": own(tags), "properties": properties}
    if offer.zone:
        body["zones"] = [offer.zone]
    if identity:
        body["identity"] = {"type": "UserAssigned", "userAssignedIdentities": {identity: {}}}
    return body


def _system(place: MachineId, user: str, public_key: str, scripts: Sequence[str]) -> dict[str, Any]:
    key = " ".join(public_key.split())
    path = f"/home/{user}/.ssh/authorized_keys"
    return {
        "computerName": place.name,
        "adminUsername": user,
        "customData": base64.b64encode(_first_words(user, key, scripts).encode()).decode(),
        "linuxConfiguration": {
            "disablePasswordAuthentication": True,
            "ssh": {"publicKeys": [{"path": path, "keyData": key}]},
        },
    }


def _first_words(user: str, key: str, scripts: Sequence[str]) -> str:
    """Return what a machine runs as root when it starts."""
    quoted = shlex.quote(key)
    # The key is given here too: Azure has dropped keys of some kinds in silence.
    lines = [
        "#!/bin/sh",
        f"home=$(getent passwd {user} | cut -d: -f6) && keys=$home/.ssh/authorized_keys",
        f"grep -qsF {quoted} $keys || {{ mkdir -p -m 700 $home/.ssh && echo {quoted} >>$keys",
        f"chmod 600 $keys; chown -R {user}: $home/.ssh; }}",
    ]
    lines += [f"(sh -c {shlex.quote(one)} </dev/null >/dev/null 2>&1 &)" for one in scripts]
    return "\n".join([*lines, ""])


def _cards(
    place: MachineId, subnet: str, tags: Mapping[str, str], *, public: bool
) -> dict[str, Any]:
    """Return a card, with an address unless that is left out; each goes with the machine."""
    address = {
        "name": f"{place.name}-ip",
        "sku": {"name": "Standard", "tier": "Regional"},
        "tags": dict(tags),
        # On the address as well as on the card: with that alone the address stays, and is billed.
        "properties": {"deleteOption": "Delete", "publicIPAllocationMethod": "Static"},
    }
    inner = {
        "name": "ip",
        "properties": {"primary": True, "subnet": {"id": subnet}}
        | ({"publicIPAddressConfiguration": address} if public else {}),
    }
    card = {
        "name": f"{place.name}-nic",
        "tags": dict(tags),
        "properties": {"primary": True, "deleteOption": "Delete", "ipConfigurations": [inner]},
    }
    return {"networkApiVersion": NETWORK_VERSION, "networkInterfaceConfigurations": [card]}


def schedule(place: MachineId, location: str, due: float) -> dict[str, Any]:
    """Return the order of a schedule that stops a machine, and its bill, at a time.

    Args:
        place: the machine.
        location: the machine's.
        due: Unix seconds, of which a schedule knows whole minutes.
    """
    return {
        "location": location,
        "tags": own({MACHINE_TAG: place.name}),
        "properties": {
            "status": "Enabled",
            "taskType": "ComputeVmShutdownTask",
            "dailyRecurrence": {"time": time.strftime("%H%M", time.gmtime(due))},
            "timeZoneId": "UTC",
            "targetResourceId": place.path,
            "notificationSettings": {"status": "Disabled"},
        },
    }
