"""Azure: virtual machines with GPUs, by the REST API of Azure Resource Manager."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from typing import Any, ClassVar

from blocks.marks import Mark
from blocks.models import Instance, InstanceStatus, Offer
from blocks.providers import places
from blocks.providers.api import Answer, Unanswered
from blocks.providers.azure import orders
from blocks.providers.azure.answers import data_of, error_of, is_absent, part
from blocks.providers.azure.ending import NOTICE, delete_itself
from blocks.providers.azure.machines import Piece
from blocks.providers.azure.market import search, sizes_of
from blocks.providers.azure.network import have_network
from blocks.providers.azure.offers import SPOT_QUOTA
from blocks.providers.azure.reading import AzureReading
from blocks.providers.azure.resources import MACHINES, SCHEDULES, Group, MachineId, version
from blocks.providers.azure.rights import check_account
from blocks.providers.base import Provider, counted
from blocks.providers.cloud import ALLOW_MORE, as_described, elsewhere
from blocks.providers.lost_answer import came_of
from blocks.uptime import uptime
from trainer.config import Limits, Resources
from trainer.contract.errors import (
    CapacityError,
    ConfigError,
    OrchestratorError,
    QuotaError,
    RateLimited,
    Scope,
)

logger = logging.getLogger(__name__)

ORDER_SECONDS = 60.0  # of silence that an order is allowed
UNATTENDED_SECONDS = 3600.0  # from the order until the schedule, unless a lease says otherwise
SPENT_SECONDS = 600.0  # for which a quota that was refused counts as used up
ORPHAN_SECONDS = 900.0  # after which a part without a machine belongs to no order under way


class Azure(AzureReading):
    """Hires virtual machines of Azure, billed by the second until they are deleted."""

    _block_type_name = "Azure"
    _block_type_slug = "training-orchestrator-azure"

    provider_name: ClassVar[str] = "azure"
    boot_minutes: ClassVar[float] = 20.0
    has_network: ClassVar[bool] = True
    """Machines of one location share a virtual network."""
    takes_first_script: ClassVar[bool] = True
    notice_command: ClassVar[str] = NOTICE
    _ended: ClassVar[set[str]] = set()  # ids of machines whose end was accepted
    _due: ClassVar[dict[str, float]] = {}  # when their schedules end them, as Unix seconds, by id
    _spent: ClassVar[dict[tuple[str, str, str], float]] = {}
    """When a quota was refused, as `uptime`, by subscription, location and family."""

    @property
    def shutdown_command(self) -> str:  # type: ignore[override]  # depends on the settings here
        """How a machine ends itself: for good by its identity, else only its work."""
        power_off = Provider.shutdown_command
        if not self._identity():
            return power_off
        return f"{{ {delete_itself(self._url())}; }} || {{ {power_off}; }}"

    @property
    def shutdown_ends_bill(self) -> bool:  # type: ignore[override]  # depends on the settings here
        """Whether it has an identity: a machine that was shut down from within is billed in full."""
        return bool(self._identity())

    async def check(self) -> str:
        """Verify login, rights and settings without spending; see `Provider.check`."""
        group = self._group()
        self._image(), self._ssh_from(), self._user(), self._port(), self._subnet()
        locations = self._locations()
        await check_account(self._api(), group)
        for location in locations:
            if not await sizes_of(self._api(), group, location):
                raise ConfigError(
                    f"AZURE_LOCATIONS: {location!r} has no size that this subscription may have.",
                    "Correct it as `az account list-locations --query [].name` prints it, or remove it.",
                )
        self._forget(group)
        found = counted(len(await self.instances()), "machine")
        ends = "deleting themselves" if self._identity() else "stopped by a schedule"
        words = [f"{found} in {group.name}, {', '.join(locations)}", f"without us {ends}"]
        return "; ".join(filter(None, [*words, await self._check_mailboxes()]))

    async def offers(self, resources: Resources, limits: Limits) -> list[Offer]:
        """Return one offer per size and location, or zone; see `Provider.offers`."""
        locations = self._locations(resources)
        if not locations:
            wanted, allowed = resources.regions, self._given_locations()
            raise elsewhere(self.title, wanted, allowed, "AZURE_LOCATIONS")
        found = await search(
            self._api(),
            self._prices_api(),
            self._group(),
            locations,
            self.zones,
            self.disk_gb,
            resources,
            limits,
            public=not self._by_store(),
        )
        if found.offers:
            return sorted(found.offers, key=lambda offer: (offer.rank_price, offer.host))
        why = "it has no such size"
        if found.too_dear:
            cap = limits.max_price_per_hour
            why = (
                f"{', '.join(sorted(found.too_dear))} cost more than {cap:g} USD/h, or an unknown "
            )
            why += "price"
        elif found.without_quota:
            why = " ".join(f"{name}: {said}" for name, said in found.without_quota.items())
        raise CapacityError(
            f"Azure has no machine for this job in {', '.join(locations)}: {why}.",
            ALLOW_MORE,
        )

    async def launch(
        self, offer: Offer, mark: Mark, ssh_public_key: str | None, first_script: str = ""
    ) -> Instance:
        """Order the machine, then the schedule that ends it; see `Provider.launch`."""
        if ssh_public_key is None:  # which Azure asks for, though nothing may connect
            raise ConfigError("Azure hires out no machine without an SSH key.")
        # An earlier attempt of this very launch may have succeeded without our hearing of it.
        instance = await self.find(mark)
        if instance is None:
            instance = await self._hired(offer, mark, ssh_public_key, first_script)
        # At once, and again by the flow for the time that it means: it may die before that.
        try:
            most = offer.lives_seconds or UNATTENDED_SECONDS
            await self.renew(instance.id, min(UNATTENDED_SECONDS, most))
        except OrchestratorError as error:
            logger.warning("%s has no schedule that ends it: %s", instance.id, error)
        return instance

    async def terminate(self, id: str) -> bool:
        """Delete the machine, or what is left of it; see `Provider.terminate`."""
        place = MachineId.read(id, self._group())
        params = {**version(MACHINES), "forceDeletion": "true"}
        answer = await self._api().call("DELETE", place.path, params=params)
        self._forget(place.group)
        if answer.ok and answer.status != 204:
            self._ended.add(place.id)
            self._asked_to_end(place.id)
            return True
        if not answer.ok and not is_absent(answer):
            raise error_of(answer)
        parts = [one for one in await self._parts(place.group) if one.machine == place.name.lower()]
        for one in parts:
            await self._remove(one)
        await self._unschedule(place)
        self._forget(place.group)
        return bool(parts)

    async def describe(self, id: str) -> Instance:
        """Return the machine as Azure has it; of one that we ended, the schedule goes too."""
        found = await super().describe(id)
        if found.status is InstanceStatus.ABSENT and found.id in self._ended:
            # Not before: until it is gone, the schedule is what ends it without us.
            await self._unschedule(MachineId.read(id, self._group()))
            self._ended.discard(found.id)
        return await self._seen(found)

    async def remark(self, id: str, mark: Mark) -> bool:
        """Give the machine another tag; False when it is gone."""
        place = MachineId.read(id, self._group())
        answer = await self._api().call("GET", place.path, params=version(MACHINES))
        if is_absent(answer):
            return False
        with as_described(self.title, f"GET {place.path}"):
            # All tags are replaced at once, so those that are there are given again.
            tags = {**part(data_of(answer), "tags"), orders.MARK_TAG: str(mark)}
        body = {"tags": tags}
        answer = await self._api().call("PATCH", place.path, params=version(MACHINES), body=body)
        self._forget(place.group)
        if is_absent(answer):
            return False
        data_of(answer)
        return True

    async def renew(self, id: str, seconds: float) -> None:
        """Move the schedule that stops the machine and its bill; see `Provider.renew`."""
        place = MachineId.read(id, self._group())
        earliest = time.time() + min(max(seconds, 60.0), orders.LONGEST_SECONDS)
        # A little later than asked for, so that not every renewal is a call.
        latest = earliest + max(120.0, min(seconds / 5, 600.0))
        if earliest <= self._due.get(place.id, 0.0) <= latest:
            return
        location = self._region.get(place.id) or (await super().describe(id)).region
        if not location:
            return  # it is gone
        due = math.ceil(latest / 60) * 60.0
        body = orders.schedule(place, location, due)
        data_of(await self._api().call("PUT", place.schedule, params=version(SCHEDULES), body=body))
        self._due[place.id] = due - 60

    async def sweep(self) -> None:
        """Remove cards, addresses, disks, schedules and mailboxes of machines that are gone."""
        await self._sweep_mailboxes()
        for group in [self._group(), *self._former_groups()]:
            await self._sweep_group(group)

    async def _sweep_group(self, group: Group) -> None:
        self._forget(group)
        # The parts come before the machines: those of one that is ordered meanwhile are not seen.
        parts, schedules = await self._parts(group), await self._listed(SCHEDULES, group)
        names = {str(row.get("name")).lower() for row in await self._rows(group)}
        for one in parts:
            # One without a date counts as young: the next looks at it see no other.
            if one.machine not in names and one.born and time.time() - one.born > ORPHAN_SECONDS:
                await self._remove(one)
        for row in schedules:
            tags = row.get("tags")
            machine = tags.get(orders.MACHINE_TAG) if isinstance(tags, dict) else None
            ours = isinstance(machine, str) and machine.startswith(orders.own_prefix())
            if ours and str(machine).lower() not in names:
                await self._unschedule(MachineId(group, str(machine)))

    async def _hired(
        self, offer: Offer, mark: Mark, public_key: str, first_script: str
    ) -> Instance:
        await self._refuse_spent(offer)
        subnet = self._subnet()
        if not subnet:
            sources, port = self._ssh_from(), self._port()
            await have_network(self._api(), self._group(), offer.region, sources, port)
        reached = await self._reached(mark)
        place = MachineId(self._group(), str(mark))
        await asyncio.to_thread(places.note, self.label, str(place.group))
        body = orders.machine(
            place,
            offer,
            mark,
            user=self._user(),
            public_key=public_key,
            first_script=first_script,
            image=self._image(),
            identity=self._identity(),
            subnet=subnet,
            reached=reached,
        )
        try:
            answer = await self._order(place, body)
            if answer.status == 412:
                return await self._taken(place, mark)
            if not answer.ok:
                await self._undo(place, mark, error_of(answer), offer)
            data_of(answer)
        except Unanswered as error:
            return await came_of(self, mark, error)
        finally:
            self._forget(place.group)
        self._region[place.id] = offer.region
        address, port, user = reached.mailbox, self._port(), self._user()
        return offer.as_instance(place.id, mark, address=address, port=port, user=user)

    async def _order(self, place: MachineId, body: dict[str, Any]) -> Answer:
        return await self._api().call(
            "PUT",
            place.path,
            params=version(MACHINES),
            body=body,
            # Else a machine that is there would be changed to what is ordered.
            headers={"If-None-Match": "*"},
            once=True,
            read_seconds=ORDER_SECONDS,
        )

    async def _taken(self, place: MachineId, mark: Mark) -> Instance:
        """Return the machine that has the name already, if it bears the mark.

        Raises:
            CapacityError: it bears another one.
            Unanswered: it is there, and cannot be seen: it may be ours.
        """
        self._forget(place.group)
        try:
            found = await self.describe(place.id)
        except OrchestratorError as error:
            raise Unanswered(f"{error.message} It may be ordered already.") from error
        if found.mark == mark:
            return found
        if found.status is InstanceStatus.ABSENT:
            raise Unanswered(f"Azure has a machine {place.name}, and does not show it yet.")
        raise CapacityError(f"Azure: the name {place.name} is taken by another machine.")

    async def _undo(
        self, place: MachineId, mark: Mark, error: OrchestratorError, offer: Offer
    ) -> None:
        """Remove what a refused order made all the same, and raise why it was refused.

        Raises:
            OrchestratorError: the error; nothing is hired then.
            Unanswered: something is left, or may be.
        """
        if isinstance(error, QuotaError) and error.scope is Scope.OFFER:
            self._spent[await self._family(offer)] = uptime()
        if isinstance(error, RateLimited):  # it is sent again
            raise error
        self._forget(place.group)
        try:
            found = await self.describe(place.id)
            if found.mark == mark:
                await self.terminate(place.id)
        except OrchestratorError as stays:
            raise Unanswered(f"{error.message} Something of it may be left.") from stays
        raise error

    async def _family(self, offer: Offer) -> tuple[str, str, str]:
        if offer.spot:  # they have one quota, whatever their family
            return self._group().subscription, offer.region, SPOT_QUOTA
        sizes = await sizes_of(self._api(), self._group(), offer.region)
        family = next((one.family for one in sizes if one.name == offer.instance_type), "")
        return self._group().subscription, offer.region, family or offer.instance_type

    async def _refuse_spent(self, offer: Offer) -> None:
        """Save the order of a machine whose whole family was refused a moment ago.

        Raises:
            QuotaError: it was.
        """
        family = await self._family(offer)
        since = self._spent.get(family)
        if since is not None and uptime() - since < SPENT_SECONDS:
            raise QuotaError(f"Azure's quota {family[2]} in {offer.region} is used up.").ruling_out(
                Scope.OFFER
            )

    async def _remove(self, one: Piece) -> None:
        """Delete a card, an address or a disk; what still holds it keeps it for the next time."""
        answer = await self._api().call("DELETE", one.path, params=version(one.kind))
        if answer.ok or is_absent(answer):
            logger.info("removed the %s of %s", one.word, one.machine)
        else:
            logger.info("the %s of %s stays for now: %s", one.word, one.machine, error_of(answer))

    async def _unschedule(self, place: MachineId) -> None:
        self._due.pop(place.id, None)
        try:
            answer = await self._api().call("DELETE", place.schedule, params=version(SCHEDULES))
            if not answer.ok and not is_absent(answer):
                raise error_of(answer)
        except OrchestratorError as error:  # the next sweep takes it
            logger.info("the schedule of %s stays for now: %s", place.name, error)
