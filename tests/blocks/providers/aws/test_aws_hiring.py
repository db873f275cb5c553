"""Orders at AWS: what is in them, that they are never doubled, and what a refusal means."""

import asyncio
import dataclasses

import pytest
import yaml

from blocks.models import InstanceStatus
from blocks.providers import boto
from blocks.providers.absence import found_or_absent
from blocks.providers.aws.errors import error_of
from blocks.providers.aws.ordering import first_boot, token_of
from blocks.providers.boto import Refusal
from tests.blocks.providers.aws.aws_account import launched, offered, orders, refusing
from tests.blocks.providers.rented_account import mark, until
from tests.clouds.aws_catalog import UBUNTU
from trainer.contract.errors import (
    CapacityError,
    ConfigError,
    ConnectionLost,
    CredentialsError,
    ProviderError,
    QuotaError,
    Scope,
)


def asked_for(cloud, instance):
    return cloud.account[instance.id].facts["asked"]


@pytest.mark.parametrize("spot", [False, True])
async def test_an_order_ends_with_its_machine_and_leaves_nothing(provider, cloud, key, spot):
    instance = await launched(provider, key, spot=spot, disk_gb=100)

    asked = asked_for(cloud, instance)
    assert asked["InstanceInitiatedShutdownBehavior"] == "terminate"
    options = asked["MetadataOptions"]
    assert (options["HttpTokens"], options["HttpPutResponseHopLimit"]) == ("required", 2)
    [disk] = asked["BlockDeviceMappings"]
    assert disk["Ebs"] == {
        "VolumeSize": 175,
        "VolumeType": "gp3",
        "Encrypted": True,
        "DeleteOnTermination": True,
    }
    [card] = asked["NetworkInterfaces"]
    assert card["DeleteOnTermination"]
    assert card["AssociatePublicIpAddress"]
    assert "KeyName" not in asked  # no key pair that would have to be removed
    tagged = {one["ResourceType"] for one in asked["TagSpecifications"]}
    assert {"instance", "volume", "network-interface"} <= tagged
    assert ("spot-instances-request" in tagged) is spot
    market = asked.get("InstanceMarketOptions")
    assert (market is not None) is spot
    if market:
        assert market["SpotOptions"] == {
            "SpotInstanceType": "one-time",
            "InstanceInterruptionBehavior": "terminate",
        }
    assert instance.storage_gb == 175
    await provider.terminate(instance.id)
    assert cloud.left_over() == cloud.alive() == []


async def test_user_data_lets_the_key_in_and_runs_the_script_beside_it(key):
    script = 'sleep 5; echo "it\'s $HOME"'

    text = first_boot(key, script)

    config = yaml.safe_load(text)
    assert text.startswith("#cloud-config\n")
    assert config["ssh_authorized_keys"] == [key]
    [[_, _, begin]] = config["bootcmd"]
    assert "unattended-upgrades" in begin
    assert "systemd-run" in begin
    with pytest.raises(ProviderError, match="16384"):
        first_boot(key, "x" * 16_384)


@pytest.mark.thorough
async def test_a_machine_that_nobody_reaches_ends_itself_and_its_bill(provider, cloud, key):
    script = f"sleep 0.1; {provider.shutdown_command}"

    instance = await launched(provider, key, script=script)

    await until(provider, instance.id, InstanceStatus.GONE)
    assert cloud.left_over() == cloud.alive() == []


@pytest.mark.thorough
async def test_no_machine_outlives_its_job_whatever_becomes_of_us(provider, cloud, key):
    [offer, *_] = await offered(provider)
    offer = dataclasses.replace(offer, lives_seconds=0.5)

    # Somebody has reached it, and renews its lease for ever.
    instance = await provider.launch(offer, mark(), key, "sleep 600")

    await until(provider, instance.id, InstanceStatus.GONE)
    assert cloud.left_over() == cloud.alive() == []


@pytest.mark.thorough
async def test_where_a_shutdown_only_stops_the_bill_would_go_on(provider, cloud, key):
    instance = await launched(provider, key)
    rented = cloud.account[instance.id]
    await until(provider, instance.id, InstanceStatus.RUNNING)
    rented.facts["asked"].pop("InstanceInitiatedShutdownBehavior")  # AWS's own default

    await cloud.power_off(rented)

    seen = await provider.describe(instance.id)
    assert (seen.status, cloud.alive()) == (InstanceStatus.LOST, [instance.id])
    assert cloud.left_over() == []


async def test_a_token_is_of_one_offer_and_fits(provider, cloud):
    found = await offered(provider, spot=None)

    tokens = {token_of(offer, mark()) for offer in found}

    assert len(tokens) == len(found) > 4
    assert {len(token) for token in tokens} == {64}
    assert token_of(found[0], mark()) != token_of(found[0], mark(2))


@pytest.mark.thorough
async def test_an_order_under_the_same_token_is_the_same_machine(provider, cloud, key, monkeypatch):
    [offer, *_] = await offered(provider)
    first = await provider.launch(offer, mark(), key)
    cloud.omits = 2  # the lists of both regions do not have it yet

    again = await provider.launch(offer, mark(), key)

    assert (again.id, orders(cloud)) == (first.id, 2)
    assert cloud.alive() == [first.id]


async def test_an_order_that_changed_meanwhile_finds_the_machine_that_it_made(provider, cloud, key):
    [offer, *_] = await offered(provider)
    first = await provider.launch(offer, mark(), key)
    cloud.omits = 2

    # Such as by a newer image: AWS refuses the token, and hires out nothing more.
    again = await provider.launch(offer, mark(), key, "another script")

    assert again.id == first.id
    assert cloud.alive() == [first.id]


async def test_a_mark_whose_machine_came_and_went_is_a_lack_of_capacity(provider, cloud, key):
    [offer, *_] = await offered(provider)
    first = await provider.launch(offer, mark(), key)
    await provider.terminate(first.id)

    with pytest.raises(CapacityError, match="IdempotentInstanceTerminated"):
        await provider.launch(offer, mark(), key)

    assert cloud.alive() == []


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("InsufficientInstanceCapacity", 500, CapacityError),
        ("InsufficientHostCapacity", 500, CapacityError),
        ("InsufficientFreeAddressesInSubnet", 400, CapacityError),
        ("Unsupported", 400, CapacityError),
        ("SpotMaxPriceTooLow", 400, CapacityError),
        ("VcpuLimitExceeded", 400, QuotaError),
        ("MaxSpotInstanceCountExceeded", 400, QuotaError),
        ("VolumeLimitExceeded", 400, QuotaError),
        ("UnauthorizedOperation", 403, CredentialsError),
        ("ExpiredToken", 400, CredentialsError),
        ("OptInRequired", 401, CredentialsError),
        ("PendingVerification", 401, CredentialsError),
        ("InvalidAMIID.NotFound", 400, ConfigError),
        ("InvalidSubnetID.NotFound", 400, ConfigError),
        ("VPCIdNotSpecified", 400, ConfigError),
        ("InvalidParameterValue", 400, ConfigError),
        ("SomethingNew", 400, ProviderError),
    ],
)
def test_a_refusal_is_understood_by_its_code(code, status, kind):
    response = {
        "Error": {"Code": code, "Message": "no"},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }

    error = boto._refused("ec2:RunInstances", response, once=True)

    assert type(error_of(error, "us-east-1") if isinstance(error, Refusal) else error) is kind


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("code", "status"), [("InternalError", 500), ("Unavailable", 503), ("ServiceUnavailable", 503)]
)
async def test_trouble_of_its_own_may_have_made_a_machine(provider, cloud, key, code, status):
    fault = refusing(code, status)
    fault.kind = "commit_then_status"
    cloud.faults.add(fault)

    instance = await launched(provider, key)

    assert (orders(cloud), cloud.alive()) == (1, [instance.id])


@pytest.mark.thorough
async def test_a_quota_of_a_kind_and_no_capacity_rule_out_an_offer_and_others_the_region(
    provider, cloud, key
):
    codes = ("AddressLimitExceeded", "MaxSpotInstanceCountExceeded", "VcpuLimitExceeded")
    refusals = [refusing(code) for code in codes]
    cloud.faults.add(*refusals, refusing("InsufficientInstanceCapacity", 500))

    scopes = []
    for attempt in (1, 2, 3, 4):
        with pytest.raises(ProviderError) as caught:
            await launched(provider, key, attempt)
        scopes.append(caught.value.scope)

    assert scopes == [Scope.REGION, Scope.OFFER, Scope.OFFER, Scope.OFFER]


@pytest.mark.thorough
async def test_orders_that_come_too_soon_wait_and_are_repeated(provider, cloud, key):
    cloud.throttled = 2

    instance = await launched(provider, key)

    assert (orders(cloud), cloud.alive()) == (3, [instance.id])


@pytest.mark.thorough
async def test_orders_keep_the_pace_of_a_region(provider, cloud, key, monkeypatch):
    cloud.rates.factor = 1.0
    monkeypatch.setattr(type(provider), "intervals", {"RunInstances": 0.5})
    [offer, *_] = await offered(provider)

    await asyncio.gather(*(provider.launch(offer, mark(n), key) for n in (1, 2, 3)))

    assert sum(cloud.rates.refused.values()) == 0


@pytest.mark.thorough
async def test_a_wrong_instance_profile_is_no_lack_of_capacity(provider, cloud, key, monkeypatch):
    monkeypatch.setenv("AWS_INSTANCE_PROFILE", "nobody")
    with pytest.raises(ConfigError, match="Invalid IAM Instance Profile"):
        await launched(provider, key)

    cloud.profiles.add("nobody")

    assert (await launched(provider, key)).id in cloud.alive()


@pytest.mark.thorough
async def test_a_right_to_tag_that_is_missing_is_named(provider, cloud, key):
    await launched(provider, key)  # makes the security group
    cloud.denied.add("ec2:CreateTags")

    with pytest.raises(CredentialsError, match=r"ec2:CreateTags") as caught:
        await launched(provider, key, attempt=2)

    assert "xxxx" not in str(caught.value)  # what is encoded in the answer says nothing
    assert len(cloud.alive()) == 1


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("setting", "image", "size"),
    [
        (None, "d1a1", 135),
        (UBUNTU, "c4a1", 68),
        ("ami-0000000000000c4a1", "c4a1", 68),
        ("ubuntu/images/*noble*", "c4a1", 68),
    ],
)
async def test_an_image_is_an_id_a_parameter_or_a_name(
    provider, cloud, key, monkeypatch, setting, image, size
):
    if setting:
        monkeypatch.setenv("AWS_IMAGE", setting)

    asked = asked_for(cloud, await launched(provider, key))

    assert asked["ImageId"].endswith(image)
    assert asked["BlockDeviceMappings"][0]["Ebs"]["VolumeSize"] == size


@pytest.mark.thorough
@pytest.mark.parametrize("setting", ["/aws/nothing", "no such image", "ami-00000000"])
async def test_an_image_that_is_not_there_is_said(provider, cloud, key, monkeypatch, setting):
    monkeypatch.setenv("AWS_IMAGE", setting)

    with pytest.raises(ConfigError, match=r"AWS_IMAGE|InvalidAMIID"):
        await launched(provider, key)


@pytest.mark.thorough
async def test_without_the_right_to_read_parameters_images_are_found_by_name(provider, cloud, key):
    cloud.denied.add("ssm:GetParameter")

    assert asked_for(cloud, await launched(provider, key))["ImageId"].endswith("d1a1")


@pytest.mark.thorough
async def test_a_machine_without_gpus_gets_no_driver(provider, cloud, key):
    asked = asked_for(cloud, await launched(provider, key, gpu_count=0))

    assert asked["ImageId"].endswith("c4a1")


@pytest.mark.thorough
async def test_the_group_is_made_once_by_two_launches_at_once(provider, cloud, key):
    [offer, *_] = await offered(provider)

    await asyncio.gather(*(provider.launch(offer, mark(n), key) for n in (1, 2)))

    [group] = cloud.regions[offer.region].groups.values()
    ssh, among = group["IpPermissions"]
    assert (ssh["FromPort"], ssh["IpRanges"]) == (cloud.ssh_port, [{"CidrIp": "127.0.0.0/8"}])
    assert among["UserIdGroupPairs"] == [{"GroupId": group["GroupId"]}]
    assert len(cloud.alive()) == 2


@pytest.mark.thorough
@pytest.mark.parametrize("cidr", ["", "everywhere", "10.0.0.1/99"])
async def test_nobody_is_let_in_whom_nobody_named(provider, cloud, key, monkeypatch, cidr):
    monkeypatch.setenv("AWS_SSH_CIDR", cidr)

    with pytest.raises(ConfigError, match="AWS_SSH_CIDR"):
        await launched(provider, key)

    assert (cloud.alive(), cloud.regions["us-east-1"].groups) == ([], {})


@pytest.mark.thorough
async def test_a_group_of_the_users_own_is_taken_as_it_is(provider, cloud, key, monkeypatch):
    first = await launched(provider, key)
    [group] = cloud.regions[first.region].groups
    monkeypatch.setenv("AWS_SECURITY_GROUP", group)
    monkeypatch.delenv("AWS_SSH_CIDR")

    asked = asked_for(cloud, await launched(provider, key, attempt=2))

    assert asked["NetworkInterfaces"][0]["Groups"] == [group]


@pytest.mark.thorough
async def test_a_fresh_machine_may_not_be_found_and_a_state_may_be_old(provider, cloud, key):
    cloud.list_lag = cloud.look_lag = 3600.0
    instance = await launched(provider, key)
    assert (await provider.describe(instance.id)).status is InstanceStatus.ABSENT
    cloud.list_lag = cloud.look_lag = 0.0
    assert (await found_or_absent(provider, mark(), instance.id)).id == instance.id
    cloud.stale_seconds = 3600.0

    await provider.terminate(instance.id)

    assert (await provider.describe(instance.id)).status is not InstanceStatus.GONE
    cloud.account[instance.id].facts["changed"] = (0.0, "")
    assert (await provider.describe(instance.id)).status is InstanceStatus.GONE


@pytest.mark.thorough
async def test_an_address_comes_after_the_state(provider, cloud, key):
    cloud.never_boot = True
    instance = await launched(provider, key)
    cloud.account[instance.id].status = "running without address"

    seen = await provider.describe(instance.id)

    assert seen.status is InstanceStatus.PROVISIONING


async def test_one_region_that_fails_does_not_hide_a_machine_of_another(provider, cloud, key):
    instance = await launched(provider, key)
    [other] = cloud.regions.keys() - {instance.region}
    cloud.regions[other].fails = "Unavailable"

    assert (await provider.find(mark())).id == instance.id
    assert (await provider.describe(instance.id)).mark == mark()
    with pytest.raises(ConnectionLost, match=other):
        await provider.instances()
    with pytest.raises(ConnectionLost):
        await provider.find(mark(7))
