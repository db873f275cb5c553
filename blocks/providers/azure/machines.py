"""The machines of a resource group, and what is left of those that are gone."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

from blocks.marks import ours
from blocks.models import Instance, InstanceStatus
from blocks.providers.azure.answers import last, meaning_of, part, text
from blocks.providers.azure.offers import billed_beside, gpu_of
from blocks.providers.azure.orders import (
    BORN_TAG,
    GPUS_TAG,
    MACHINE_TAG,
    MAILBOX_TAG,
    MARK_TAG,
    PRICE_TAG,
    own_prefix,
)
from blocks.providers.azure.resources import ADDRESSES, CARDS, DISKS, Group, MachineId
from blocks.providers.cloud import not_as_described
from trainer.contract.errors import BootError, CapacityError, OrchestratorError, ProviderError

CREATING_SECONDS = 2400.0  # 40 minutes: some sizes hang in Creating, and "may still start"
WITHOUT_ADDRESS = "without an address yet"
POWER = {
    "starting": InstanceStatus.PROVISIONING,
    "running": InstanceStatus.RUNNING,
    "stopping": InstanceStatus.STOPPING,
    "deallocating": InstanceStatus.STOPPING,
    # Shut down from within: nothing trains there, and all of it is billed.
    "stopped": InstanceStatus.LOST,
    "deallocated": InstanceStatus.LOST,
}


class Reach(NamedTuple):
    """Where a machine is reached."""

    address: str
    """From outside; empty where there is none."""
    private: str


def reach_of(cards: Collection[Any], addresses: Collection[Any]) -> dict[str, Reach]:
    """Return where the machines of a group are reached, by their names.

    Raises:
        AttributeError, LookupError, TypeError: a row is not as it is described.
    """
    public = {last(text(row, "id")): text(row, "properties", "ipAddress") for row in addresses}
    found = {}
    for card in cards:
        facts = part(card, "properties")
        machine = last(text(facts, "virtualMachine", "id"))
        for inner in facts.get("ipConfigurations") or ():
            address = public.get(last(text(inner, "properties", "publicIPAddress", "id")), "")
            private = text(inner, "properties", "privateIPAddress")
            if machine and (address or private):
                found[machine] = Reach(address, private)
    return found


def name_of(row: Mapping[str, Any]) -> str:
    """Return the name of a row of machines.

    Raises:
        ProviderError: it has none; it could be ours.
    """
    name = row.get("name")
    if isinstance(name, str) and name:
        return name.lower()
    raise ProviderError("Azure's list of machines has one without a name.")


def instance_of(
    row: Mapping[str, Any], group: Group, reach: Reach | None, *, user: str, port: int
) -> Instance:
    """Return a row of machines as an instance."""
    place = MachineId(group, name_of(row))
    try:
        return _instance(row, place, reach, user=user, port=port)
    except (AttributeError, LookupError, TypeError, ValueError):
        tags = row.get("tags")
        mark = str(tags.get(MARK_TAG) or "") if isinstance(tags, Mapping) else place.name
        return not_as_described("azure", "Azure", id=place.id, mark=mark)


def _instance(
    row: Mapping[str, Any], place: MachineId, reach: Reach | None, *, user: str, port: int
) -> Instance:
    facts, tags = part(row, "properties"), part(row, "tags")
    status, detail, failure = state_of(facts)
    mailbox = text(tags, MAILBOX_TAG)
    address = mailbox or (reach.address if reach else "")
    if status is InstanceStatus.RUNNING and not (address and reach):
        status, detail = InstanceStatus.PROVISIONING, WITHOUT_ADDRESS
    kind, region = text(facts, "hardwareProfile", "vmSize"), text(row, "location").lower()
    zone = next((str(zone) for zone in row.get("zones") or ()), "")
    gpus = int(tags.get(GPUS_TAG) or 0)
    gpu = gpu_of(kind) if gpus else None
    # What it was offered for: Azure's own answers have no price.
    price = float(tags.get(PRICE_TAG) or 0)
    return Instance(
        provider="azure",
        id=place.id,
        mark=ours(text(tags, MARK_TAG)),
        status=status,
        detail=detail,
        failure=failure,
        address=address,
        private_address=reach.private if reach else "",
        port=port,
        user=user,
        instance_type=kind,
        region=region,
        zone=zone,
        host=f"{kind} in {region}{f' zone {zone}' if zone else ''}",
        spot=facts.get("priority") == "Spot",
        price_per_hour=price if 0 < price < float("inf") else None,
        **billed_beside(_disk_of(facts), public=not mailbox),
        gpu_type=gpu.name if gpu else None,
        gpu_count=gpus,
    )


def _disk_of(facts: Mapping[str, Any]) -> float:
    """Return the GiB of a machine's disk; 0 where that is not said."""
    disk = part(part(facts, "storageProfile"), "osDisk")
    return float(disk.get("diskSizeGB") or 0)


def state_of(
    facts: Mapping[str, Any],
) -> tuple[InstanceStatus, str, OrchestratorError | None]:
    """Return the status of a machine, Azure's words, and why its order failed, if it did."""
    made = text(facts, "provisioningState")
    statuses = part(facts, "instanceView").get("statuses") or ()
    codes = [(text(one, "code"), text(one, "message")) for one in statuses]
    power = next((code.partition("/")[2] for code, _ in codes if code.startswith("Power")), "")
    match made:
        case "Failed" | "Canceled":
            return InstanceStatus.LOST, made, _failure(codes)
        case "Deleting":
            return InstanceStatus.STOPPING, made, None
        case "Creating" if _age(facts) > CREATING_SECONDS:
            minutes = f"{CREATING_SECONDS / 60:g} minutes"
            error = BootError(f"Azure: the machine has been in the state Creating for {minutes}.")
            return InstanceStatus.LOST, made, error
        case "Creating" | "Updating" if not power:
            return InstanceStatus.PROVISIONING, made, None
        case "Creating" | "Updating" | "Succeeded":
            return POWER.get(power, InstanceStatus.UNKNOWN), power or made, None
        case _:
            return InstanceStatus.UNKNOWN, made, None


def _failure(codes: Collection[tuple[str, str]]) -> OrchestratorError:
    """Return why an order failed that Azure had accepted: it stands in the state's own code."""
    for code, words in codes:
        kind, _, why = code.partition("/failed/")
        if kind == "ProvisioningState" and why:
            return meaning_of(why, words, otherwise=BootError)
    return CapacityError("Azure took the order, failed it, and does not say why.")


def _age(facts: Mapping[str, Any]) -> float:
    """Return for how many seconds a machine has been there; 0 where that is not said."""
    return time.time() - (_moment(text(facts, "timeCreated")) or time.time())


def _moment(words: str) -> float | None:
    try:
        at = datetime.fromisoformat(words)
    except ValueError:
        return None
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A network card, address or disk of ours, which may outlive its machine."""

    kind: str
    path: str
    machine: str
    """The name of the machine that it was ordered with."""
    mark: str
    """What that bore when it was ordered."""
    born: float
    """Unix seconds; 0 where nothing says it."""

    @property
    def word(self) -> str:
        """What it is, for people."""
        return {CARDS: "network card", ADDRESSES: "address", DISKS: "disk"}[self.kind]


def parts_of(kind: str, rows: Collection[Mapping[str, Any]], group: Group) -> list[Piece]:
    """Return those rows of a list that belong to machines of this installation.

    Raises:
        AttributeError, LookupError, TypeError, ValueError: a row is not as it is described.
    """
    return [found for row in rows if (found := _part(kind, row, group))]


def _part(kind: str, row: Mapping[str, Any], group: Group) -> Piece | None:
    name, tags = text(row, "name"), part(row, "tags")
    if not name:
        raise ValueError(f"one of {kind} has no name")
    # A disk takes no tags with the order of its machine: its name says whose it is.
    machine = text(tags, MACHINE_TAG) or (name.removesuffix("-disk") if kind == DISKS else "")
    if not machine.startswith(own_prefix()):
        return None
    since = _moment(text(row, "properties", "timeCreated")) or float(tags.get(BORN_TAG) or 0)
    return Piece(
        kind=kind,
        path=group.of(kind, name),
        machine=machine.lower(),
        mark=text(tags, MARK_TAG) or machine,
        born=since,
    )


def leftover(place: MachineId, parts: Collection[Piece]) -> Instance:
    """Return what is left of a machine as an instance: it is billed until it is gone.

    Whose it was is not said where the id is known: the machine may have passed to another mark.
    """
    words = ", ".join(sorted({part.word for part in parts}))
    return Instance(
        provider="azure",
        id=place.id,
        mark=None,
        status=InstanceStatus.STOPPING,
        detail=f"the machine is gone; left of it: {words}",
    )
