"""Whether an account lets us do what a job needs: asked by dry runs, which order nothing."""

from __future__ import annotations

from typing import Any

from blocks.marks import Mark, installation_id, read_mark
from blocks.models import Offer
from blocks.providers.aws import prices
from blocks.providers.aws.answers import name_of
from blocks.providers.aws.client import Aws
from blocks.providers.aws.errors import PERMITTED
from blocks.providers.aws.kinds import ON_DEMAND, PRICES_OF, SPOT
from blocks.providers.aws.network import Network, checked_cidr, group_request, places_in
from blocks.providers.aws.offers import quota
from blocks.providers.aws.ordering import first_boot, image_for, order_for
from blocks.providers.boto import Refusal

TRIED = "m7i.large"  # any type would do: a dry run looks at permissions only


async def examined(
    aws: Aws, network: Network, image: str, profile: str, rows: list[dict[str, Any]]
) -> str:
    """Return in a few words what a region allows.

    Raises:
        CredentialsError: naming the permission that is missing.
        ConfigError: naming the setting that is.
        OrchestratorError: AWS cannot be asked.
    """
    if not (network.group or network.private):
        checked_cidr(network.cidr)
    places = await places_in(aws, network)
    zone, subnet = min(places.subnets.items())
    offer = Offer(
        provider="aws", instance_type=TRIED, region=aws.region, zone=zone, price_per_hour=None
    )
    group = network.group
    if not (group or network.private):
        group = await _group(aws, places.vpc)
    order = order_for(
        offer,
        Mark(installation=installation_id(), shape="00000000"),
        image=await image_for(aws, image, gpu=True),
        subnet=subnet,
        group=group,
        profile=profile,
        user_data=first_boot("ssh-ed25519 AAAA none", ""),
        mailbox="s3://bucket/mailbox" if network.private else "",
    )
    if not (group or network.private):
        # Of our own there is none yet, and then the first launch makes it.
        await _may(aws, "CreateSecurityGroup", group_request(places.vpc))
    await _may(aws, "RunInstances", order)
    await _may_end(aws, rows)
    return f"{aws.region}: {len(places.subnets)} zones, {await _quotas(aws)}{await _prices(aws)}"


async def _may(aws: Aws, operation: str, request: dict[str, Any]) -> None:
    """Ask whether something is permitted, without doing it."""
    try:
        await aws.ask("ec2", operation, {**request, "DryRun": True}, expected={PERMITTED})
    except Refusal:
        return


async def _may_end(aws: Aws, rows: list[dict[str, Any]]) -> None:
    """Ask whether machines may be ended, where there is one of ours: by the least policy no other."""
    for row in rows:
        mark = read_mark(name_of(row))
        if mark and mark.installation == installation_id():
            await _may(aws, "TerminateInstances", {"InstanceIds": [row["InstanceId"]]})
            return


async def _group(aws: Aws, vpc: str) -> str:
    filters = {"group-name": group_request(vpc)["GroupName"], "vpc-id": vpc}
    request = {"Filters": [{"Name": name, "Values": [value]} for name, value in filters.items()]}
    found = await aws.rows("DescribeSecurityGroups", request, "SecurityGroups")
    return str(found[0].get("GroupId") or "") if found else ""


async def _quotas(aws: Aws) -> str:
    words = []
    for way, table in (("on demand", ON_DEMAND), ("spot", SPOT)):
        for family in ("G", "P"):
            value = await quota(aws, table[family][0])
            words.append(f"{family} {'?' if value is None else f'{value:g}'} {way}")
    return f"vCPUs {', '.join(words)}"


async def _prices(aws: Aws) -> str:
    await prices.on_demand(aws, [TRIED])
    return f", prices by our table of {PRICES_OF}" if prices.is_refused(aws) else ""
