"""Google Cloud: virtual machines of Compute Engine, by its REST API v1."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, TypeVar
from urllib.parse import quote
from uuid import uuid4

from blocks.marks import Mark
from blocks.models import Instance, InstanceStatus, Offer
from blocks.providers import places
from blocks.providers.absence import absent
from blocks.providers.api import Answer, Unanswered
from blocks.providers.base import counted
from blocks.providers.cloud import as_described, elsewhere, one_line
from blocks.providers.gcp.account import GoogleAccount
from blocks.providers.gcp.answers import (
    LABEL,
    Failure,
    error_of,
    failed,
    failure_of,
    instance_of,
    meaning,
)
from blocks.providers.gcp.compute import TITLE, Compute, Listing, data_of
from blocks.providers.gcp.offers import fitting, offers_of, places_without, within
from blocks.providers.gcp.operations import Story
from blocks.providers.gcp.orders import order, request_id
from blocks.providers.gcp.table import PRICES_OF
from blocks.providers.lost_answer import came_of
from trainer.config import Limits, Resources
from trainer.contract.errors import (
    ConfigError,
    OrchestratorError,
    ProviderError,
    QuotaError,
    Scope,
)

T = TypeVar("T")
ORDER_SECONDS = 60.0  # of silence that an order is allowed
FOLLOW_SECONDS = 5.0  # that an order is followed before it is left to `describe`
LABEL_SECONDS = 20.0  # that a change of labels may take
LABEL_TRIES = 3  # somebody else may change labels at the same time
INSTANCES_SECONDS = 2.0  # how old the list of instances may be
QUOTA_SECONDS = 60.0  # how old quotas may be
FULL_SECONDS = 3600.0  # for which a refusal for the whole project counts
IDLE_DISK_SECONDS = 600.0  # that a disk may be without a machine: one that is being made is
ENDING = {InstanceStatus.STOPPING, InstanceStatus.LOST}


class GoogleCloud(GoogleAccount):
    """Hires virtual machines of Compute Engine, billed by the second until they are deleted."""

    _block_type_name = "Google Cloud"
    _block_type_slug = "training-orchestrator-gcp"

    provider_name: ClassVar[str] = "gcp"
    boot_minutes: ClassVar[float] = 15.0
    settle_seconds: ClassVar[float] = 60.0
    has_network: ClassVar[bool] = True
    """Machines of one network and region reach each other."""
    takes_first_script: ClassVar[bool] = True
    shutdown_command: ClassVar[str] = one_line(Path(__file__).with_name("shutdown.sh"))
    notice_command: ClassVar[str] = one_line(Path(__file__).with_name("notice.sh"))
    _full: ClassVar[dict[str, float]] = {}
    """When a machine, by its id, was refused for the whole project's quota."""

    async def check(self) -> str:
        """Verify credentials, API, quota, network and images, and spend nothing."""
        compute = self._compute()
        self._cidr(), self._port()
        if nothing := places_without(self._places()):
            raise ConfigError(
                f"GCP_ZONES, GCP_REGIONS: no machine is known in {', '.join(nothing)}.",
                "Write zones as us-central1-a and regions as us-central1, or remove them.",
            )
        quotas = await compute.quotas(0.0)
        images = [f"/{self._image(count)}" for count in (1, 0)]
        networks = [] if self._set("subnetwork") else [compute.path(f"/{self._network()}")]
        for path in [*images, *networks]:
            answer = await compute.api.call("GET", path)
            if not answer.ok:
                raise error_of(answer)
        compute.api.forget("instances")
        found = [one for one in await self.instances() if one.mark]
        words = [compute.project, counted(len(found), "instance"), quotas.summary()]
        words.append(await self._check_mailboxes())
        return ", ".join([*(word for word in words if word), f"prices of {PRICES_OF}"])

    async def offers(self, resources: Resources, limits: Limits) -> list[Offer]:
        """Return one offer per kind and zone within the quotas; see `Provider.offers`."""
        found = offers_of(
            fitting(resources),
            resources,
            places=self._places(),
            disk_gb=self.disk_gb,
            public=self._public(),
        )
        if not found and resources.regions:
            raise elsewhere(TITLE, resources.regions, self._places(), "GCP_ZONES or GCP_REGIONS")
        return within(found, limits, await self._compute().quotas(QUOTA_SECONDS))

    async def launch(
        self, offer: Offer, mark: Mark, ssh_public_key: str | None, first_script: str = ""
    ) -> Instance:
        """Insert an instance, and follow the order for some seconds; see `Provider.launch`."""
        if ssh_public_key is None and not self._by_store():
            raise ConfigError(f"{TITLE} hires out no machine without an SSH key.")
        # An earlier attempt of this very launch may have succeeded without our hearing of it.
        if instance := await self.find(mark):
            return instance
        await asyncio.to_thread(places.note, self.label, self._project())
        reached = await self._reached(mark)
        compute, cidr = self._compute(), "" if reached.mailbox else self._cidr()
        tag = await compute.firewall(self._network(), cidr, self._port()) if cidr else ""
        settings = self._settings(offer, tag, reached)
        body = order(offer, mark, ssh_public_key or "", first_script, settings)
        ordered = offer.as_instance(
            f"{offer.zone}/{mark}",
            mark,
            address=reached.mailbox,
            user=self._user(),
            port=self._port(),
        )
        try:
            answer = await compute.call(
                "POST",
                f"/zones/{quote(offer.zone, safe='')}/instances",
                params={"requestId": request_id(offer.zone, str(mark))},
                body=body,
                once=True,
                read_seconds=ORDER_SECONDS,
            )
            return await self._accepted(ordered, mark, answer)
        except Unanswered as error:
            return await came_of(self, mark, error)
        finally:
            compute.api.forget("instances")

    async def find(self, mark: Mark) -> Instance | None:
        """Return the instance that bears the label; see `Provider.find`."""

        async def look(compute: Compute) -> Instance | None:
            compute.api.forget("instances")  # what was hired a moment ago may be in the next list
            found = await self._instances_of(compute, mark)
            return next((one for one in found if one.mark == mark), None)

        return await self._first(look)

    async def describe(self, id: str) -> Instance:
        """Return the instance as listed or asked for, with what operations tell; see `Provider`."""
        if "/" not in id:
            return absent(self.provider_name, id)
        return await self._seen(await self._looked_for(id))

    async def _looked_for(self, id: str) -> Instance:
        # A list with gaps still shows what the other zones have.
        listed = self._instances(await self._listing(self._compute()))
        seen = next((one for one in listed if one.id == id), None)
        # Absent from the list is not yet gone: a fresh instance, or its zone, may not be listed.
        seen = seen or await self._first(lambda compute: self._asked_for(id, compute))
        if seen is not None and seen.status not in ENDING:
            return seen
        operations = await self._first(lambda compute: compute.operations(id)) or []
        with as_described(TITLE, "GET operations"):
            story = Story.of(operations)
        instance = story.told_of(id, seen)
        if instance is None:
            return absent(self.provider_name, id)
        if story.failure is None:
            return instance
        return dataclasses.replace(instance, failure=self._meant(story.failure, id))

    async def terminate(self, id: str) -> bool:
        """Delete the instance, its disk with it; see `Provider.terminate`."""
        if "/" not in id:
            return False
        if not await self._first(lambda compute: self._deleted(compute, id)):
            return False
        self._asked_to_end(id)
        return True

    async def _deleted(self, compute: Compute, id: str) -> bool:
        # An id of its own for every request: one that repeats another's is answered with that one's
        # fate, also when it was accepted and nothing came of it.
        params = {"requestId": str(uuid4())}
        answer = await compute.api.call("DELETE", compute.at(id), params=params)
        compute.api.forget("instances")
        if answer.status == 404:
            return False
        data_of(answer)
        return True

    async def instances(self) -> list[Instance]:
        """Return what bears a label of ours, of whatever installation; see `Provider.instances`.

        Raises:
            ConnectionLost: a zone cannot be asked: what is there is not known.
        """
        current, *former = self._computes()
        found = await self._instances_of(current)
        for compute in former:
            look = partial(self._instances_of, compute)
            found += await places.if_allowed(f"project {compute.project}", look)
        return found

    async def remark(self, id: str, mark: Mark) -> bool:
        """Change the label; False when the instance is gone."""
        if "/" not in id:
            return False
        return bool(await self._first(lambda compute: self._labelled(compute, id, mark)))

    async def _labelled(self, compute: Compute, id: str, mark: Mark) -> bool:
        for _ in range(LABEL_TRIES):
            answer = await compute.api.call("GET", compute.at(id))
            if answer.status == 404:
                return False
            row = data_of(answer)
            with as_described(TITLE, "GET instance"):
                labels = {**(row.get("labels") or {}), LABEL: str(mark)}
            # With the fingerprint: else labels that somebody else has just set would be lost.
            body = {"labels": labels, "labelFingerprint": str(row.get("labelFingerprint") or "")}
            answer = await compute.api.call("POST", f"{compute.at(id)}/setLabels", body=body)
            if answer.status == 404:
                return False
            if answer.status == 412:
                continue
            zone = id.partition("/")[0]
            operation = await compute.followed(zone, data_of(answer), LABEL_SECONDS)
            compute.api.forget("instances")
            if failure := failed(operation):
                raise self._meant(failure, id)
            return True
        raise ProviderError(f"The labels of {id} change all the time; it keeps its mark.")

    async def sweep(self) -> None:
        """Delete disks of ours, and mailboxes, that no machine has; see `Provider.sweep`."""
        await self._sweep_mailboxes()
        await self._first(lambda compute: compute.sweep(IDLE_DISK_SECONDS))

    async def _first(self, look: Callable[[Compute], Awaitable[T]]) -> T | None:
        """Return what is found first: in the project that is set, or in one that was set before.

        The name of a machine is of one run and attempt, so no other project has the same.
        """
        current, *former = self._computes()
        if found := await look(current):
            return found
        for compute in former:
            try:
                if found := await look(compute):
                    return found
            except places.CLOSED as error:
                places.not_seen(f"project {compute.project}", error)
        return None

    async def _instances_of(self, compute: Compute, mark: Mark | None = None) -> list[Instance]:
        """Return what a project has; with a mark, also of a list with gaps that shows that one.

        Raises:
            ConnectionLost: a zone cannot be asked: what is there is not known.
        """
        listing = await self._listing(compute)
        found = self._instances(listing)
        if not mark or all(one.mark != mark for one in found):
            listing.whole()
        return found

    async def _listing(self, compute: Compute) -> Listing:
        return await compute.api.shared(
            "instances", INSTANCES_SECONDS, lambda: compute.everywhere("instances")
        )

    def _instances(self, listing: Listing) -> list[Instance]:
        with as_described(TITLE, "GET aggregated/instances"):
            return [self._instance(row, zone) for zone, row in listing.rows]

    def _instance(self, row: Mapping[str, Any], zone: str) -> Instance:
        return instance_of(row, zone, user=self._user(), port=self._port())

    async def _asked_for(self, id: str, compute: Compute | None = None) -> Instance | None:
        compute = compute or self._compute()
        row = await compute.row(compute.at(id))
        with as_described(TITLE, "GET instance"):
            return None if row is None else self._instance(row, id.partition("/")[0])

    async def _accepted(self, ordered: Instance, mark: Mark, answer: Answer) -> Instance:
        """Return what came of an order that was answered.

        Raises:
            Unanswered: something may have come of it.
            OrchestratorError: nothing has.
        """
        failure = failure_of(answer)
        if failure and failure.status == 409:
            return await self._that_exists(ordered.id, mark, failure)
        if not answer.ok:
            raise self._meant(failure, ordered.id) if failure else error_of(answer)
        with as_described(TITLE, "POST instances", Unanswered):
            operation = {**answer.data, "name": answer.data["name"]}
        # From here on it is ordered, and no error may say that it is not.
        try:
            followed = await self._compute().followed(ordered.zone, operation, FOLLOW_SECONDS)
            failure = failed(followed)
        except OrchestratorError:
            return ordered
        return await self._after(failure, ordered) if failure else ordered

    async def _that_exists(self, id: str, mark: Mark, failure: Failure) -> Instance:
        """Return the instance that has the name of an order, if it is that order's."""
        try:
            found = await self._asked_for(id)
        except OrchestratorError as error:
            raise Unanswered(f"{error.message} It may be ordered already.") from error
        if found is None or found.mark != mark:
            raise meaning(failure)
        return found

    async def _after(self, failure: Failure, ordered: Instance) -> Instance:
        """Return the instance that an order left which was accepted, and then failed.

        Raises:
            OrchestratorError: it left none.
        """
        error = self._meant(failure, ordered.id)
        try:
            found = await self._asked_for(ordered.id)
        except OrchestratorError:  # it may be there: whoever asked for it gives it back
            return dataclasses.replace(ordered, failure=error)
        if found is None:
            raise error
        # What it did not find was not itself: it runs all the same.
        if failure.has("resourcenotfound") and found.status not in ENDING:
            return found
        return dataclasses.replace(found, failure=error)

    def _meant(self, failure: Failure, id: str) -> OrchestratorError:
        """Return what the failure of an order means, as far as others have shown."""
        error = meaning(failure)
        if not (isinstance(error, QuotaError) and error.scope is Scope.ACCOUNT):
            return error
        # A zone without machines has been seen to say this, so another is asked before it is
        # believed.
        now = time.monotonic()
        same = [one for one, at in self._full.items() if one != id and now - at < FULL_SECONDS]
        self._full[id] = now
        return error if same else error.ruling_out(Scope.ZONE)
