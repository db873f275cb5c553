"""What is in the resource group: machines, what belongs to them, and what is left of them."""

from __future__ import annotations

import asyncio
import dataclasses
from abc import ABC
from collections.abc import Mapping
from functools import partial
from itertools import groupby
from typing import Any, ClassVar

from blocks.marks import Mark, ours
from blocks.models import Instance, InstanceStatus
from blocks.providers import places
from blocks.providers.absence import absent
from blocks.providers.api import Unanswered
from blocks.providers.azure.answers import GroupMissing, data_of, is_absent
from blocks.providers.azure.machines import (
    WITHOUT_ADDRESS,
    Piece,
    Reach,
    instance_of,
    leftover,
    name_of,
    parts_of,
    reach_of,
)
from blocks.providers.azure.resources import (
    ADDRESSES,
    CARDS,
    DISKS,
    MACHINES,
    Group,
    MachineId,
    pages,
    version,
)
from blocks.providers.azure.settings import AzureAccount
from blocks.providers.cloud import as_described

LIST_SECONDS = 5.0  # how old a list may be
VIEW = {"$expand": "instanceView"}
PARTS = (CARDS, ADDRESSES, DISKS)
"""In the order in which they can go: a card holds its address."""


class AzureReading(AzureAccount, ABC):
    """The calls of the provider azure that only look."""

    _reach: ClassVar[dict[str, Reach]] = {}
    """Where machines are reached, by id: an address stays the same while there is a machine."""
    _region: ClassVar[dict[str, str]] = {}
    """Where they are, by id."""

    async def find(self, mark: Mark) -> Instance | None:
        """Return the machine that bears the mark as a tag; see `Provider.find`."""
        for group in [self._group(), *self._former_groups()]:
            self._forget(group)  # what was hired a moment ago may be in the next list
        marked = [instance for instance in await self.instances() if instance.mark == mark]
        # What is left of one that is gone bears the mark of its first order.
        marked.sort(key=lambda instance: instance.status is InstanceStatus.STOPPING)
        return marked[0] if marked else None

    async def describe(self, id: str) -> Instance:
        """Return the machine as listed; what is not listed is asked for; see `Provider`."""
        place = MachineId.read(id, self._group())
        if place.group == self._group():
            for row in await self._rows(place.group):
                if name_of(row) == place.name.lower():
                    return await self._instance(row, place.group)
        return await self._asked_for(place)

    async def instances(self) -> list[Instance]:
        """Return every machine of the groups, and what is left of others; see `Provider`."""
        found = await self._instances_in(self._group())
        for group in self._former_groups():
            found += await places.if_allowed(str(group), partial(self._instances_in, group))
        return found

    def _former_groups(self) -> list[Group]:
        """Return the groups that machines were ordered in, and that are not in the settings now."""
        noted = places.others(self.label, [str(self._group())])
        return [Group(*one.split("/")) for one in noted]

    async def _instances_in(self, group: Group) -> list[Instance]:
        # The parts come first: those of a machine that is ordered in between have their machine.
        parts = await self._parts(group)
        rows = await self._rows(group)
        names = {name_of(row) for row in rows}
        left = sorted(
            (part for part in parts if part.machine not in names), key=lambda part: part.machine
        )
        found = [await self._instance(row, group) for row in rows]
        for machine, those in groupby(left, key=lambda part: part.machine):
            # Looked at directly too: a list may leave out a machine that is there.
            seen = await self._asked_for(MachineId(group, machine))
            mark = seen.mark or next(filter(None, (ours(part.mark) for part in those)), None)
            if seen.status is not InstanceStatus.ABSENT:
                found.append(dataclasses.replace(seen, mark=mark))
        return found

    async def _asked_for(self, place: MachineId) -> Instance:
        """Return one that is not in the list of the group."""
        answer = await self._api().read(
            place.path, LIST_SECONDS, params={**version(MACHINES), **VIEW}
        )
        if not is_absent(answer):
            row = data_of(answer)
            with as_described(self.title, f"GET {place.path}", Unanswered):
                return await self._instance({**row, "name": row["name"]}, place.group)
        parts = [one for one in await self._parts(place.group) if one.machine == place.name.lower()]
        return leftover(place, parts) if parts else absent(self.provider_name, place.id)

    async def _instance(self, row: Mapping[str, Any], group: Group) -> Instance:
        id = MachineId(group, name_of(row)).id
        found = self._instance_at(row, group)
        self._region[id] = found.region
        if found.detail != WITHOUT_ADDRESS:
            return found
        if not found.mark:  # somebody else's, and not for us to reach
            return found
        cards, addresses = await asyncio.gather(
            self._listed(CARDS, group), self._listed(ADDRESSES, group)
        )
        with as_described(self.title, "GET networkInterfaces"):
            by_name = reach_of(cards, addresses)
        if reach := by_name.get(name_of(row)):
            self._reach[id] = reach
        return self._instance_at(row, group)

    def _instance_at(self, row: Mapping[str, Any], group: Group) -> Instance:
        reach = self._reach.get(MachineId(group, name_of(row)).id)
        return instance_of(row, group, reach, user=self._user(), port=self._port())

    async def _rows(self, group: Group) -> list[dict[str, Any]]:
        return await self._listed(MACHINES, group, VIEW)

    async def _parts(self, group: Group) -> list[Piece]:
        """Return the cards, addresses and disks of ours in a group."""
        lists = await asyncio.gather(*(self._listed(kind, group) for kind in PARTS))
        found: list[Piece] = []
        for kind, rows in zip(PARTS, lists, strict=True):
            with as_described(self.title, f"GET {kind}"):
                found += parts_of(kind, rows, group)
        return found

    async def _listed(
        self, kind: str, group: Group, extra: Mapping[str, str] | None = None
    ) -> list[dict[str, Any]]:
        """Return a list of the group, at most some seconds old; an empty one of no group."""
        params = {**version(kind), **(extra or {})}
        fetch = partial(self._fetched, group.of(kind), params)
        return await self._api().shared(f"{kind} {group}", LIST_SECONDS, fetch)

    async def _fetched(self, path: str, params: Mapping[str, str]) -> list[dict[str, Any]]:
        try:
            return await pages(self._api(), path, params)
        except GroupMissing:
            return []

    def _forget(self, group: Group) -> None:
        for kind in (MACHINES, *PARTS):
            self._api().forget(f"{kind} {group}")
