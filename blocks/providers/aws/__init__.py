"""AWS: virtual machines of EC2, on demand or spot, by its own SDK."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, ClassVar

from blocks.marks import Mark
from blocks.models import Instance, InstanceStatus, Offer
from blocks.providers import places
from blocks.providers.absence import absent
from blocks.providers.api import Unanswered
from blocks.providers.aws import prices
from blocks.providers.aws.answers import LIVE, id_of, instance_of
from blocks.providers.aws.checking import examined
from blocks.providers.aws.client import Aws
from blocks.providers.aws.errors import MISMATCH, NO_INSTANCE, error_of
from blocks.providers.aws.kinds import table_price
from blocks.providers.aws.network import group_in, places_in
from blocks.providers.aws.offers import no_offer, offers_in, used_vcpus
from blocks.providers.aws.ordering import (
    first_boot,
    has_gpu,
    image_for,
    last_moment,
    order_for,
)
from blocks.providers.aws.settings import AwsAccount
from blocks.providers.aws.sweeping import sweep_region
from blocks.providers.base import counted
from blocks.providers.boto import Refusal
from blocks.providers.cloud import as_described, elsewhere
from blocks.providers.lost_answer import came_of
from blocks.task_scope import all_of
from trainer.config import Limits, Resources
from trainer.contract.errors import (
    CapacityError,
    ConfigError,
    OrchestratorError,
    QuotaError,
    Scope,
)

logger = logging.getLogger(__name__)

INSTANCES_SECONDS = 2.0  # how old the list of instances may be
# 404 until about two minutes before. Every question needs a token; and an answer that never comes must
# not hold up the next one.
SPOT_NOTICE = (
    'imds="${AWS_EC2_METADATA_SERVICE_ENDPOINT:-http://169.254.169.254}"; imds="${imds%/}/latest"; '
    "until token=$(curl -sf -m 5 -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 300' "
    '"$imds/api/token") && curl -sf -m 5 -o /dev/null -H "X-aws-ec2-metadata-token: $token" '
    '"$imds/meta-data/spot/instance-action"; do sleep 5; done'
)


class AWS(AwsAccount):
    """Hires virtual machines of EC2, billed by the second until they are terminated."""

    _block_type_name = "AWS"
    _block_type_slug = "training-orchestrator-aws"

    provider_name: ClassVar[str] = "aws"
    boot_minutes: ClassVar[float] = 15.0
    settle_seconds: ClassVar[float] = 90.0
    has_network: ClassVar[bool] = True
    """Machines of one region stand in one VPC, and their security group lets them reach each other."""
    takes_first_script: ClassVar[bool] = True
    notice_command: ClassVar[str] = SPOT_NOTICE

    async def check(self) -> str:
        """Ask whether everything that a job needs is permitted; see `Provider.check`."""
        regions = await self._regions()
        found = await all_of(self._examined(region) for region in regions)
        instances = counted(sum(number for number, _ in found), "instance")
        words = [instances, *(words for _, words in found), await self._check_mailboxes()]
        return "; ".join(filter(None, words))

    async def offers(self, resources: Resources, limits: Limits) -> list[Offer]:
        """Return one offer per type and zone of the regions that answer; see `Provider.offers`."""
        regions = await self._regions()
        allowed = [r for r in regions if not resources.regions or r in resources.regions]
        if not allowed:
            raise elsewhere("AWS", resources.regions, regions, "AWS_REGIONS")
        tried = [self._offers_in(region, resources, limits) for region in allowed]
        found = await asyncio.gather(*tried, return_exceptions=True)
        offers: list[Offer] = []
        errors: list[OrchestratorError] = []
        for region, result in zip(allowed, found, strict=True):
            if isinstance(result, OrchestratorError):
                logger.warning("AWS in %s is left out: %s", region, result.message)
                errors.append(result)
            elif isinstance(result, BaseException):
                raise result
            else:
                offers += result[0]
                errors += result[1]
        if offers:
            return sorted(offers, key=lambda offer: (offer.rank_price, offer.id))
        raise no_offer(errors, allowed, limits)

    async def launch(
        self, offer: Offer, mark: Mark, ssh_public_key: str | None, first_script: str = ""
    ) -> Instance:
        """Order one machine in one zone; see `Provider.launch`."""
        if ssh_public_key is None and not self._by_store():
            raise ConfigError("AWS hires out no machine without an SSH key.")
        # An earlier attempt of this very launch may have succeeded without our hearing of it.
        if instance := await self.find(mark):
            return instance
        aws = self._in(offer.region)
        await asyncio.to_thread(places.note, self.label, offer.region)
        last = last_moment(offer.lives_seconds, self.shutdown_command)
        reached = await self._reached(mark)
        key = "" if reached.mailbox else ssh_public_key or ""
        user_data = first_boot(key, first_script, last, reached.script)
        request = await self._request(aws, offer, mark, user_data, reached.mailbox)
        try:
            answer = await aws.ask("ec2", "RunInstances", request, once=True, expected={MISMATCH})
            instance = self._hired(answer, offer, mark, reached.mailbox)
        except Unanswered as error:
            return await came_of(self, mark, error)
        # An earlier attempt reached AWS with what has changed since, such as a newer image.
        except Refusal as refusal:
            return await came_of(self, mark, Unanswered(error_of(refusal, offer.region).message))
        finally:
            aws.forget("instances")
        return instance

    async def find(self, mark: Mark) -> Instance | None:
        """Return the instance whose name is the mark, in whatever region; see `Provider.find`."""
        looks = await self._in_all(lambda aws: self._named(aws, mark))
        found = await asyncio.gather(*looks, return_exceptions=True)
        # What is seen is there, though another region cannot be asked.
        for result in found:
            if isinstance(result, list) and result:
                return await self._priced(result[0])
        for result in found:
            if isinstance(result, BaseException):
                raise result
        return None

    async def describe(self, id: str) -> Instance:
        """Return the instance as listed; what is not listed is asked for; see `Provider`."""
        region, _, plain = id.rpartition("/")
        if not region:
            return absent(self.provider_name, id)
        return await self._seen(await self._looked_for(region, plain))

    async def _looked_for(self, region: str, plain: str) -> Instance:
        aws = self._in(region)
        listed = [row for row in await self._rows(aws) if row["InstanceId"] == plain]
        row = listed[0] if listed else await self._asked_for(aws, plain)
        if row is None:
            return absent(self.provider_name, id_of(region, plain))
        return await self._priced(self._instance(row, region))

    async def terminate(self, id: str) -> bool:
        """Terminate the instance, its disk with it; see `Provider.terminate`."""
        region, _, plain = id.rpartition("/")
        if not region:
            return False
        aws = self._in(region)
        try:
            # One a call: one id that AWS does not know fails all that are named with it.
            request = {"InstanceIds": [plain]}
            await aws.ask("ec2", "TerminateInstances", request, expected=NO_INSTANCE)
        except Refusal:
            return False
        finally:
            aws.forget("instances")
        return True

    async def instances(self) -> list[Instance]:
        """Return every instance of the regions; one that fails is unknown, never empty."""

        async def listed(aws: Aws) -> list[Instance]:
            return [self._instance(row, aws.region) for row in await self._rows(aws)]

        found = [one for some in await all_of(await self._in_all(listed)) for one in some]
        return await all_of(self._priced(instance) for instance in found)

    async def remark(self, id: str, mark: Mark) -> bool:
        """Give the instance another name; False when it is gone."""
        region, _, plain = id.rpartition("/")
        if not region:
            return False
        aws = self._in(region)
        request = {"Resources": [plain], "Tags": [{"Key": "Name", "Value": str(mark)}]}
        try:
            await aws.ask("ec2", "CreateTags", request, expected=NO_INSTANCE)
        except Refusal:
            return False
        finally:
            aws.forget("instances")
        return True

    async def sweep(self) -> None:
        """Remove disks, spot requests and mailboxes that no instance has; see `Provider.sweep`."""
        await self._sweep_mailboxes()
        regions = await self._regions()
        for region in [*regions, *places.others(self.label, regions)]:
            try:
                with as_described("AWS", "what is left over"):
                    await sweep_region(self._in(region))
            except OrchestratorError as error:  # the next sweep takes them
                logger.info("What may be left in %s is not known: %s", region, error.message)

    # Answers ------------------------------------------------------------------------------------

    async def _in_all(
        self, look: Callable[[Aws], Awaitable[list[Instance]]]
    ) -> list[Awaitable[list[Instance]]]:
        """Return a look at each region of the settings, and at those that were in them once."""
        regions = await self._regions()
        return [
            *(look(self._in(region)) for region in regions),
            *(
                places.if_allowed(region, partial(look, self._in(region)))
                for region in places.others(self.label, regions)
            ),
        ]

    async def _rows(self, aws: Aws) -> list[dict[str, Any]]:
        """Return what is live in a region, as EC2 describes it."""

        async def fetch() -> list[dict[str, Any]]:
            live = {
                "Filters": [{"Name": "instance-state-name", "Values": LIVE}],
                "MaxResults": 1000,
            }
            return _flat(await aws.rows("DescribeInstances", live, "Reservations"))

        return await aws.shared("instances", INSTANCES_SECONDS, fetch)

    async def _named(self, aws: Aws, mark: Mark) -> list[Instance]:
        """Return the live instances of a region that bear a mark, asked anew."""
        aws.forget("instances")  # what was hired a moment ago may be in the next list
        filters = {"tag:Name": [str(mark)], "instance-state-name": LIVE}
        request = {"Filters": [{"Name": name, "Values": value} for name, value in filters.items()]}
        rows = _flat(await aws.rows("DescribeInstances", request, "Reservations"))
        found = [self._instance(row, aws.region) for row in rows]
        return [instance for instance in found if instance.mark == mark]

    async def _asked_for(self, aws: Aws, id: str) -> dict[str, Any] | None:
        """Return one instance, ended or not; None: AWS does not find it."""
        request = {"InstanceIds": [id]}
        try:
            found = await aws.rows(
                "DescribeInstances", request, "Reservations", expected=NO_INSTANCE
            )
        except Refusal:
            return None
        rows = [row for row in _flat(found) if row["InstanceId"] == id]
        return rows[0] if rows else None

    def _instance(self, row: Mapping[str, Any], region: str) -> Instance:
        user = self._setting("ssh_user", "AWS_SSH_USER", "ubuntu")
        return instance_of(row, region, user=user, port=self._port())

    async def _priced(self, instance: Instance) -> Instance:
        """Return an instance with what it is billed at now: no description of it says."""
        if instance.mark is None or instance.status is InstanceStatus.GONE:
            return instance
        aws, kind = self._in(instance.region), instance.instance_type
        try:
            if instance.spot:
                price = (await prices.spot(aws, [kind])).get((kind, instance.zone))
            else:
                price = (await prices.on_demand(aws, [kind]))[kind]
        except OrchestratorError:  # what is there must be seen, whatever it costs
            price = None if instance.spot else table_price(kind, instance.region)
        return dataclasses.replace(instance, price_per_hour=price)

    # Orders -------------------------------------------------------------------------------------

    async def _offers_in(
        self, region: str, resources: Resources, limits: Limits
    ) -> tuple[list[Offer], list[QuotaError]]:
        aws = self._in(region)
        places = await places_in(aws, self._network())
        used = used_vcpus(await self._rows(aws))
        return await offers_in(aws, places, used, resources, limits)

    async def _request(
        self, aws: Aws, offer: Offer, mark: Mark, user_data: str, mailbox: str
    ) -> dict[str, Any]:
        """Return the order of a machine, after making sure of what it names."""
        network = self._network()
        places = await places_in(aws, network)
        if offer.zone not in places.subnets:
            raise CapacityError(f"{offer.zone} has no subnet that leads {places.way}.").ruling_out(
                Scope.ZONE
            )
        image = await image_for(aws, self._setting("image", "AWS_IMAGE"), gpu=has_gpu(offer))
        with as_described("AWS", "ec2:DescribeSecurityGroups"):
            group = await group_in(aws, network, places.vpc)
        return order_for(
            offer,
            mark,
            image=image,
            subnet=places.subnets[offer.zone],
            group=group,
            profile=self._role_of_machines(),
            user_data=user_data,
            mailbox=mailbox,
        )

    def _hired(self, answer: Mapping[str, Any], offer: Offer, mark: Mark, mailbox: str) -> Instance:
        """Return what came of an order."""
        with as_described("AWS", "ec2:RunInstances", Unanswered):
            [row] = answer["Instances"]
            said = self._instance(row, offer.region)
            if not row["InstanceId"] or said.mark not in {mark, None}:
                raise ValueError(f"{row['InstanceId']!r} is not what was ordered")
        # With the disk and the price that were offered: an order that is repeated under its token
        # gets the same machine, whatever state it is in by now.
        return offer.as_instance(said.id, mark, address=mailbox, user=said.user, port=said.port)

    async def _examined(self, region: str) -> tuple[int, str]:
        aws = self._in(region)
        rows = await self._rows(aws)
        network, image = self._network(), self._setting("image", "AWS_IMAGE")
        profile = self._role_of_machines()
        with as_described("AWS", "a dry run"):
            return len(rows), await examined(aws, network, image, profile, rows)


def _flat(reservations: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the instances of reservations.

    Raises:
        ProviderError: one cannot be read: it could be ours.
    """
    with as_described("AWS", "ec2:DescribeInstances"):
        rows = [row for reservation in reservations for row in reservation["Instances"]]
        if not all(isinstance(row["InstanceId"], str) for row in rows):
            raise ValueError("an instance without an id")
    return rows
