"""Where machines stand in a region: a subnet per zone that leads to the Internet, and who may knock."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from blocks.marks import PREFIX, installation_id
from blocks.providers.aws.client import Aws
from blocks.providers.aws.errors import DUPLICATE, error_of
from blocks.providers.boto import Refusal
from trainer.contract.errors import CapacityError, ConfigError, CredentialsError, Scope

PLACES_SECONDS = 60.0  # how old what is known of subnets may be
ANYWHERE = "0.0.0.0/0"
SET_CIDR = (
    "Set AWS_SSH_CIDR to the addresses from which this computer and your workers reach machines, "
    "such as 203.0.113.7/32; or AWS_SECURITY_GROUP to a group that lets them in."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """The settings."""

    vpc: str = ""
    """Id or name tag; empty: the default one."""
    subnet: str = ""
    """Id; empty: those of the VPC that lead to the Internet."""
    group: str = ""
    """Id of a security group; empty: one of our own."""
    cidr: str = ""
    """From where SSH is let in to our own group."""
    port: int = 22
    """Where sshd listens."""
    private: bool = False
    """Whether nothing connects to machines: they get no address of their own, and need no group."""


@dataclass(frozen=True, slots=True)
class Places:
    """Where machines can stand in a region."""

    vpc: str
    subnets: Mapping[str, str]
    """The id of one that will do, by zone."""
    private: bool = False
    """As in `Network`."""

    @property
    def way(self) -> str:
        """Where such a subnet leads, for messages."""
        return "to a NAT gateway or a store" if self.private else "to the Internet"


async def places_in(aws: Aws, network: Network) -> Places:
    """Return the usable zones of a region.

    Raises:
        CapacityError: it has no VPC of the kind, or no subnet with a way to the Internet.
        OrchestratorError: it cannot be asked.
    """

    async def fetch() -> Places:
        subnets = await _subnets(aws, network)
        vpc = str(subnets[0].get("VpcId") or "")
        tables = await aws.rows("DescribeRouteTables", _where(vpc_id=vpc), "RouteTables")
        leads = _leads_to_store if network.private else _leads_out
        # One that was named on purpose may lead to a store in a way that no table shows.
        named = network.private and network.subnet
        usable = [row for row in subnets if row.get("SubnetId") and (named or leads(row, tables))]
        # The one with most free addresses of each zone comes last, and stays.
        usable.sort(key=lambda row: int(row.get("AvailableIpAddressCount") or 0))
        places = {str(row["AvailabilityZone"]): str(row["SubnetId"]) for row in usable}
        if not places:
            way = "a NAT gateway or an S3 endpoint" if network.private else "an Internet gateway"
            raise _nowhere(
                f"No subnet of {vpc} in {aws.region} has a route to {way}.",
                "Add one to its route table, or set AWS_VPC or AWS_SUBNET to others.",
            )
        return Places(vpc, places, network.private)

    return await aws.shared(f"places {network}", PLACES_SECONDS, fetch)


async def _subnets(aws: Aws, network: Network) -> list[dict[str, Any]]:
    if network.subnet:
        # By a filter, and not by id: one that is in another region is not found, and no error.
        found = await aws.rows("DescribeSubnets", _where(subnet_id=network.subnet), "Subnets")
    else:
        vpc = await _vpc(aws, network.vpc)
        found = await aws.rows("DescribeSubnets", _where(vpc_id=vpc), "Subnets") if vpc else []
    if found and all(row.get("VpcId") and row.get("AvailabilityZone") for row in found):
        return found
    what = network.subnet or f"subnet in {network.vpc or 'a default VPC'}"
    raise _nowhere(
        f"{aws.region} has no {what}.",
        "Make one with 'aws ec2 create-default-vpc', set AWS_VPC or AWS_SUBNET, or remove the "
        "region from AWS_REGIONS.",
    )


async def _vpc(aws: Aws, wanted: str) -> str:
    """Return the id of a VPC, by id or name, or the default one; empty: there is none."""
    if not wanted:
        filters = _where(is_default="true")
    elif wanted.startswith("vpc-"):
        return wanted
    else:
        filters = {"Filters": [{"Name": "tag:Name", "Values": [wanted]}]}
    found = await aws.rows("DescribeVpcs", filters, "Vpcs")
    return str(found[0].get("VpcId") or "") if found else ""


def _leads_out(subnet: Mapping[str, Any], tables: list[dict[str, Any]]) -> bool:
    """Whether a subnet's own route table, or else the VPC's main one, has an Internet gateway."""
    return any(
        str(route.get("GatewayId") or "").startswith("igw-")
        and route.get("DestinationCidrBlock") == ANYWHERE
        for route in _routes(subnet, tables)
    )


def _leads_to_store(subnet: Mapping[str, Any], tables: list[dict[str, Any]]) -> bool:
    """Whether a machine without an address of its own gets from a subnet to a bucket."""
    return any(
        # An endpoint of S3; or whatever stands between the subnet and the Internet: an Internet
        # gateway leads nobody out who has no public address.
        str(route.get("GatewayId") or "").startswith("vpce-")
        or (
            route.get("DestinationCidrBlock") == ANYWHERE
            and not str(route.get("GatewayId") or "").startswith("igw-")
        )
        for route in _routes(subnet, tables)
    )


def _routes(subnet: Mapping[str, Any], tables: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the routes that hold in a subnet."""
    own = [t for t in tables if any(a.get("SubnetId") == subnet["SubnetId"] for a in _linked(t))]
    main = [t for t in tables if any(a.get("Main") for a in _linked(t))]
    return [
        route
        for table in (own or main)
        for route in table.get("Routes") or ()
        if route.get("State", "active") == "active"
    ]


def _linked(table: Mapping[str, Any]) -> list[dict[str, Any]]:
    return list(table.get("Associations") or ())


async def group_in(aws: Aws, network: Network, vpc: str) -> str:
    """Return the id of the security group for machines in a VPC, after making it if need be.

    Empty where nothing connects to them: they are in the VPC's default group then.

    There is one for a VPC and an installation, and it stays: it costs nothing.

    Raises:
        ConfigError: nothing says from where SSH is to be let in.
        OrchestratorError: AWS refuses.
    """
    # Without a rule, the VPC's own group lets nobody in, and its machines reach each other.
    if network.group or network.private:
        return network.group
    cidr = checked_cidr(network.cidr)
    found = await _group(aws, vpc) or await _made(aws, vpc)
    id = str(found["GroupId"])
    allowed = list(found.get("IpPermissions") or ())
    for permission in _wanted(id, cidr, network.port):
        if not any(_covers(had, permission) for had in allowed):
            request = {"GroupId": id, "IpPermissions": [permission]}
            with suppress(Refusal):
                await aws.ask("ec2", "AuthorizeSecurityGroupIngress", request, expected=DUPLICATE)
    return id


async def _group(aws: Aws, vpc: str) -> dict[str, Any] | None:
    filters = _where(group_name=group_name(), vpc_id=vpc)
    found = await aws.rows("DescribeSecurityGroups", filters, "SecurityGroups")
    return found[0] if found and found[0].get("GroupId") else None


async def _made(aws: Aws, vpc: str) -> dict[str, Any]:
    request = group_request(vpc)
    try:
        try:
            return await aws.ask("ec2", "CreateSecurityGroup", request, expected=DUPLICATE)
        except CredentialsError as error:
            # To make a group with tags takes one permission more than to make one.
            if "ec2:CreateTags" not in error.suggestion:
                raise
            bare = {key: value for key, value in request.items() if key != "TagSpecifications"}
            return await aws.ask("ec2", "CreateSecurityGroup", bare, expected=DUPLICATE)
    except Refusal as refusal:  # another launch of ours at the same moment
        if found := await _group(aws, vpc):
            return found
        raise error_of(refusal, aws.region) from refusal


def group_request(vpc: str) -> dict[str, Any]:
    """Return what makes the group."""
    return {
        "GroupName": group_name(),
        "Description": "Machines of training-orchestrator",
        "VpcId": vpc,
        "TagSpecifications": [{"ResourceType": "security-group", "Tags": tags(group_name())}],
    }


def tags(name: str) -> list[dict[str, str]]:
    """Return the tags of whatever is made for this installation."""
    ours = {"Name": name, "managed-by": "training-orchestrator", "installation": installation_id()}
    return [{"Key": key, "Value": value} for key, value in ours.items()]


def group_name() -> str:
    """Return the name of this installation's security groups."""
    return f"{PREFIX}-{installation_id()}"


def checked_cidr(cidr: str) -> str:
    """Return the range from which SSH is let in.

    Raises:
        ConfigError: it is missing, or none.
    """
    if not cidr:
        raise ConfigError("AWS_SSH_CIDR is not set: nobody could reach a machine.", SET_CIDR)
    try:
        return str(ipaddress.IPv4Network(cidr, strict=False))
    except ValueError:
        raise ConfigError(
            f"AWS_SSH_CIDR = {cidr!r} is no range of IPv4 addresses.", SET_CIDR
        ) from None


def _wanted(group: str, cidr: str, port: int) -> list[dict[str, Any]]:
    ports = {"FromPort": port, "ToPort": port}
    ssh = {"IpProtocol": "tcp", **ports, "IpRanges": [{"CidrIp": cidr}]}
    # Machines that train one job together reach each other.
    among = {"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": group}]}
    return [ssh, among]


def _covers(had: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    if any(had.get(name) != wanted.get(name) for name in ("IpProtocol", "FromPort", "ToPort")):
        return False
    lists = (("IpRanges", "CidrIp"), ("UserIdGroupPairs", "GroupId"))
    return all(
        {row[key] for row in wanted.get(name, ())} <= {row.get(key) for row in had.get(name) or ()}
        for name, key in lists
    )


def _where(**filters: str) -> dict[str, Any]:
    named = {name.replace("_", "-"): value for name, value in filters.items()}
    return {"Filters": [{"Name": name, "Values": [value]} for name, value in named.items()]}


def _nowhere(message: str, remedy: str) -> CapacityError:
    error = CapacityError(message, remedy)
    return error.ruling_out(Scope.REGION)
