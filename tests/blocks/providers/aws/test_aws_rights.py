"""AWS is asked for nothing beyond the least policy, and what is missing of it is named."""

import json
import subprocess
import sys

import pytest

from blocks.providers.aws import AWS
from blocks.providers.aws.network import tags
from blocks.registry import configured_providers
from tests.blocks.providers.aws.aws_account import launched
from tests.blocks.providers.rented_account import mark
from tests.clouds.aws_policy import least_policy
from trainer.contract.errors import ConfigError, CredentialsError, DependencyError


async def test_a_whole_life_uses_the_least_policy_and_all_of_it(provider, cloud, key):
    await provider.check()
    assert cloud.alive() == []  # a dry run hires nothing
    instance = await launched(provider, key, spot=None)
    await provider.find(mark())
    await provider.describe(instance.id)
    await provider.remark(instance.id, mark(2))
    await provider.check()
    cloud.forgotten_disk("us-east-1", tags("lost"), age=3600)
    cloud.spot_requests["sir-1"] = forgotten_request(tags("lost"))
    await provider.sweep()
    await provider.terminate(instance.id)

    permitted = {action for one in least_policy() for action in listed(one["Action"])}
    assert cloud.actions == permitted
    assert cloud.used == {one["Sid"] for one in least_policy()}


def listed(value):
    return value if isinstance(value, list) else [value]


def forgotten_request(tagged, state="open"):
    return {"State": state, "Tags": tagged, "region": "us-east-1", "created": 0.0}


@pytest.mark.thorough
async def test_the_policy_ends_nobody_elses_machines(provider, cloud, key):
    instance = await launched(provider, key)
    cloud.account[instance.id].facts["tags"].clear()

    with pytest.raises(CredentialsError, match="ec2:TerminateInstances"):
        await provider.terminate(instance.id)

    assert cloud.alive() == [instance.id]


@pytest.mark.thorough
@pytest.mark.parametrize(
    "action",
    [
        *("ec2:RunInstances", "ec2:CreateSecurityGroup", "ec2:CreateTags", "ec2:DescribeSubnets"),
        *("ec2:DescribeInstances", "ec2:DescribeImages", "ec2:DescribeRouteTables"),
        "ec2:DescribeVpcs",
    ],
)
async def test_check_names_the_permission_that_is_missing(provider, cloud, action):
    cloud.denied.add(action)

    with pytest.raises(CredentialsError, match=f"Allow {action} ") as caught:
        await provider.check()

    assert "xxxx" not in str(caught.value)
    assert cloud.alive() == []


@pytest.mark.thorough
async def test_check_tries_the_end_where_there_is_a_machine(provider, cloud, key):
    instance = await launched(provider, key)
    cloud.denied.add("ec2:TerminateInstances")

    with pytest.raises(CredentialsError, match="ec2:TerminateInstances"):
        await provider.check()

    cloud.denied.clear()
    assert (await provider.check()).startswith("1 instance; ")
    assert cloud.alive() == [instance.id]


async def test_check_says_what_there_is(provider, cloud, monkeypatch):
    monkeypatch.setenv("AWS_REGIONS", "us-east-1")
    cloud.quotas["L-DB2E81BA"] = 8
    assert await provider.check() == (
        "0 instances; us-east-1: 3 zones, vCPUs G 8 on demand, P 192 on demand, G 64 spot, P 0 spot"
    )

    cloud.denied |= {"pricing:GetProducts", "servicequotas:GetServiceQuota", "ssm:GetParameter"}
    monkeypatch.setattr("blocks.providers.aws.prices.AGAIN_SECONDS", 60.0)
    said = await provider.check()
    assert "G ? on demand" in said
    assert said.endswith("prices by our table of 2026-11")


@pytest.mark.thorough
async def test_check_asks_for_the_setting_that_is_missing(provider, cloud, monkeypatch):
    monkeypatch.delenv("AWS_SSH_CIDR")

    with pytest.raises(ConfigError, match="AWS_SSH_CIDR is not set"):
        await provider.check()


@pytest.mark.thorough
async def test_a_group_is_made_without_tags_where_those_are_not_permitted(provider, cloud, key):
    cloud.denied.add("ec2:CreateTags")

    # The least policy opens doors of a group with tags only.
    with pytest.raises(CredentialsError, match="Allow ec2:AuthorizeSecurityGroupIngress"):
        await launched(provider, key)

    assert len(cloud.regions["eu-central-1"].groups) == 1


@pytest.mark.thorough
async def test_credentials_alone_do_not_set_it_up(cloud, monkeypatch, prefect_api):
    def names(found):
        return {one.provider_name for one in found}

    assert "aws" in names(await configured_providers())
    for word in ("", "0", "no"):
        monkeypatch.setenv("AWS_PROVIDER", word)
        assert not AWS().is_configured()
    block = AWS()
    block._block_document_name = "team"
    assert block.is_configured()


@pytest.mark.thorough
def test_boto3_is_imported_when_it_is_used():
    probe = (
        "import sys, json; from blocks.registry import provider_class; provider_class('aws')();"
        "print(json.dumps(sorted({'boto3', 'botocore', 'urllib3'} & sys.modules.keys())))"
    )
    loaded = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True)
    assert "boto" not in loaded.stdout, loaded.stderr
    assert json.loads(loaded.stdout.splitlines()[-1]) in ([], ["urllib3"])


@pytest.mark.thorough
async def test_boto3_is_missed_with_a_remedy(provider, cloud, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "botocore"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "botocore", None)
    with pytest.raises(DependencyError, match="aws needs boto3") as caught:
        await provider.instances()
    assert "training-orchestrator[aws]" in str(caught.value)
