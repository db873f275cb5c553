"""A second opinion on our requests: moto, which others wrote, takes them too."""

import pytest

from blocks.models import InstanceStatus
from blocks.providers import boto
from blocks.providers.aws import AWS, offers
from blocks.providers.aws.network import group_name
from tests.blocks.providers.rented_account import mark
from trainer.config import Limits, Resources

REGION = "eu-west-1"


@pytest.fixture
def provider(monkeypatch):
    from moto import mock_aws

    for name, value in {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_PROVIDER": "1",
        "AWS_REGIONS": REGION,
        "AWS_SSH_CIDR": "203.0.113.7/32",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    monkeypatch.setattr(AWS, "intervals", {})
    monkeypatch.setattr("blocks.providers.aws.INSTANCES_SECONDS", 0.0)
    boto.forget()
    with mock_aws():
        yield AWS()
    boto.forget()


@pytest.mark.thorough
async def test_a_life_at_moto(provider, key, monkeypatch):
    import boto3

    client = boto3.client("ec2", region_name=REGION)
    monkeypatch.setenv("AWS_IMAGE", client.describe_images()["Images"][0]["ImageId"])
    # It has no quotas, no prices and no routes out of its default VPC.
    [vpc] = client.describe_vpcs()["Vpcs"]
    gateway = client.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
    client.attach_internet_gateway(InternetGatewayId=gateway, VpcId=vpc["VpcId"])
    [table] = client.describe_route_tables(Filters=[{"Name": "vpc-id", "Values": [vpc["VpcId"]]}])[
        "RouteTables"
    ]
    client.create_route(
        RouteTableId=table["RouteTableId"],
        DestinationCidrBlock="0.0.0.0/0",
        GatewayId=gateway,
    )

    found = await provider.offers(Resources(gpu_count=1), Limits())
    assert {offer.zone for offer in found} == {f"{REGION}{letter}" for letter in "abc"}
    instance = await provider.launch(found[0], mark(), key)

    [seen] = await provider.instances()
    assert (seen.id, seen.mark) == (instance.id, mark())
    assert seen.storage_gb > offers.DISK_GIB
    [row] = client.describe_instances()["Reservations"][0]["Instances"]
    behaviour = client.describe_instance_attribute(
        InstanceId=row["InstanceId"], Attribute="instanceInitiatedShutdownBehavior"
    )
    assert behaviour["InstanceInitiatedShutdownBehavior"]["Value"] == "terminate"
    assert row["MetadataOptions"]["HttpTokens"] == "required"
    [volume] = client.describe_volumes()["Volumes"]
    assert volume["Encrypted"]
    named = [{"Name": "group-name", "Values": [group_name()]}]
    [group] = client.describe_security_groups(Filters=named)["SecurityGroups"]
    opened = [
        (rule["FromPort"], rule["IpRanges"][0]["CidrIp"])
        for rule in group["IpPermissions"]
        if rule["IpRanges"]
    ]
    assert opened == [(22, "203.0.113.7/32")]
    assert await provider.remark(instance.id, mark(2))
    assert (await provider.find(mark(2))).id == instance.id
    assert await provider.terminate(instance.id)
    assert (await provider.describe(instance.id)).status is InstanceStatus.GONE
    await provider.sweep()
    assert client.describe_volumes()["Volumes"] == []
