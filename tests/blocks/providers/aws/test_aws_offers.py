"""What AWS has for hire: by zone, within quotas, at a price that is known without the Pricing API too."""

import pytest

from blocks.providers.aws import kinds
from blocks.providers.aws.kinds import KINDS, table_price
from tests.blocks.providers.aws.aws_account import launched, offered, orders, refusing
from tests.blocks.providers.rented_account import mark
from trainer.config import Limits, Resources
from trainer.contract.errors import CapacityError, ConfigError, ConnectionLost, QuotaError


@pytest.fixture(autouse=True)
def _one_region(cloud, monkeypatch):
    monkeypatch.setenv("AWS_REGIONS", "us-east-1")


async def test_there_is_an_offer_for_each_type_and_zone_that_has_it(provider, cloud):
    found = await offered(provider, gpu_types=["A10G"])

    assert [(o.instance_type, o.zone) for o in found] == [
        ("g5.xlarge", "us-east-1a"),
        ("g5.xlarge", "us-east-1b"),
    ]
    assert {o.host for o in found} == {"g5.xlarge in us-east-1a", "g5.xlarge in us-east-1b"}
    assert found[0].price_per_hour == 1.006
    assert found[0].whole_per_hour == pytest.approx(1.006 + 0.005 + 135 * 0.08 / 730)
    assert found[0].vram_gb == 24


@pytest.mark.thorough
async def test_spot_has_the_price_of_its_zone_now(provider, cloud):
    spot, dear = await offered(provider, spot=True), await offered(provider, spot=None)

    assert {o.spot for o in spot} == {True}
    assert {o.spot for o in dear} == {True, False}
    assert spot[0].price_per_hour == pytest.approx(0.526 * 0.4)


@pytest.mark.thorough
async def test_a_machine_is_billed_at_what_it_costs_now(provider, cloud, key):
    instance = await launched(provider, key, spot=True)
    cloud.spot_factor = 0.5

    assert (await provider.describe(instance.id)).price_per_hour == pytest.approx(0.526 / 2)


@pytest.mark.thorough
@pytest.mark.parametrize("what", ["without_subnet", "without_route"])
async def test_a_zone_that_nobody_reaches_has_no_offers(provider, cloud, what):
    setattr(cloud.regions["us-east-1"], what, "ac")

    assert {o.zone for o in await offered(provider)} == {"us-east-1b"}


@pytest.mark.thorough
async def test_a_region_without_a_way_in_is_said(provider, cloud, monkeypatch):
    region = cloud.regions["us-east-1"]
    region.without_route = "abc"
    with pytest.raises(CapacityError, match="No subnet of vpc"):
        await offered(provider)

    region.default_vpc = False
    with pytest.raises(CapacityError, match="default VPC"):
        await offered(provider)

    region.without_route = ""
    monkeypatch.setenv("AWS_VPC", "training")
    assert await offered(provider)
    monkeypatch.setenv("AWS_VPC", region.vpc)
    assert await offered(provider)
    monkeypatch.setenv("AWS_SUBNET", region.subnet("b"))
    assert {o.zone for o in await offered(provider)} == {"us-east-1b"}


async def test_a_region_that_fails_leaves_the_others(provider, cloud, monkeypatch):
    monkeypatch.setenv("AWS_REGIONS", "us-east-1 eu-central-1")
    cloud.regions["us-east-1"].fails = "Unavailable"
    assert {o.region for o in await offered(provider)} == {"eu-central-1"}

    cloud.regions["eu-central-1"].fails = "Unavailable"
    with pytest.raises(ConnectionLost):
        await offered(provider)


@pytest.mark.thorough
async def test_only_regions_that_are_set_up_and_asked_for(provider, cloud):
    with pytest.raises(CapacityError, match="AWS_REGIONS"):
        await offered(provider, regions=["mars-1"])
    assert await offered(provider, regions=["us-east-1", "mars-1"])


@pytest.mark.thorough
async def test_a_region_must_be_set(provider, cloud, monkeypatch):
    for name in ("AWS_REGIONS", "AWS_REGION"):
        monkeypatch.delenv(name)
    with pytest.raises(ConfigError, match="AWS_REGIONS"):
        await offered(provider)
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    assert {o.region for o in await offered(provider)} == {"eu-central-1"}


async def test_a_quota_that_is_too_small_is_known_before_ordering(provider, cloud, key):
    cloud.quotas["L-DB2E81BA"] = 0
    with pytest.raises(QuotaError, match="L-DB2E81BA") as caught:
        await offered(provider)
    assert "Running On-Demand G and VT instances" in str(caught.value)
    assert await offered(provider, spot=True)  # which has a quota of its own

    cloud.quotas["L-DB2E81BA"] = 7  # one machine of 4 vCPUs, and not two
    await launched(provider, key)
    with pytest.raises(QuotaError, match="4 are in use"):
        await offered(provider)
    assert orders(cloud) == 1


@pytest.mark.thorough
async def test_a_quota_that_nobody_knows_is_not_zero(provider, cloud):
    cloud.denied.add("servicequotas:GetServiceQuota")

    assert await offered(provider)


@pytest.mark.thorough
@pytest.mark.parametrize("how", ["denied", "unknown"])
async def test_without_the_pricing_api_the_table_of_the_package_does(
    provider, cloud, monkeypatch, how
):
    if how == "denied":
        cloud.denied.add("pricing:GetProducts")
    monkeypatch.setattr(cloud.types["g4dn.xlarge"], "price", 0.999 if how == "denied" else 0.0)

    [first, *_] = await offered(provider)

    assert first.price_per_hour == KINDS["g4dn.xlarge"].price == 0.526


def test_the_table_has_a_price_and_a_quota_for_every_type():
    assert all(0 < kind.price < 200 and kind.vcpus and kind.ram_gb for kind in KINDS.values())
    assert {kind.family for kind in KINDS.values()} == kinds.ON_DEMAND.keys() == kinds.SPOT.keys()
    assert table_price("g5.xlarge", "eu-central-1") > table_price("g5.xlarge", "us-east-1")
    assert table_price("g5.xlarge", "mars-1") is None
    assert table_price("x9.huge", "us-east-1") is None


@pytest.mark.thorough
async def test_nothing_fits(provider, cloud):
    for resources, limits in [
        (Resources(gpu_count=1, gpu_types=["RTX 4090"]), Limits()),
        (Resources(gpu_count=3), Limits()),
        (Resources(gpu_count=1), Limits(max_price_per_hour=0.01)),
        (Resources(gpu_count=1, min_vram_gb=500), Limits()),
        (Resources(gpu_count=1, min_ram_gb=5000), Limits()),
    ]:
        with pytest.raises(CapacityError, match="AWS has no machine"):
            await provider.offers(resources, limits)


@pytest.mark.thorough
async def test_a_machine_without_gpus(provider, cloud):
    found = await offered(provider, gpu_count=0, min_ram_gb=10)

    assert {o.instance_type for o in found} == {"m7i.xlarge"}
    assert found[0].gpu_type is None


@pytest.mark.thorough
async def test_sold_out_when_it_is_ordered(provider, cloud, key):
    cloud.no_capacity = {"us-east-1a"}
    a, b, *_ = await offered(provider, gpu_types=["A10G"])
    with pytest.raises(CapacityError, match="InsufficientInstanceCapacity"):
        await provider.launch(a, mark(1), key)
    assert (await provider.launch(b, mark(2), key)).zone == "us-east-1b"


@pytest.mark.thorough
async def test_what_is_throttled_is_asked_again(provider, cloud):
    cloud.faults.add(refusing("RequestLimitExceeded", 503, action="DescribeInstances$"))

    assert await offered(provider)
