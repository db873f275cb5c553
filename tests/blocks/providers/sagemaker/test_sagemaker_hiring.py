"""Orders of SageMaker: what they carry, what they cost, and what becomes of them."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import pytest

from blocks.marks import Mark
from blocks.models import InstanceStatus
from blocks.providers import sagemaker
from blocks.providers.sagemaker import SageMaker
from blocks.providers.sagemaker.kinds import KINDS
from blocks.providers.sagemaker.order import LONGEST_SECONDS, image_in
from flows.renting.giving_back import Ending, until_gone
from tests.blocks.providers.rented_account import mark
from tests.blocks.providers.sagemaker.sagemaker_account import (
    FIRST,
    cheapest,
    failed,
    in_status,
    launched,
)
from tests.clouds.sagemaker import BUCKET
from tests.clouds.sagemaker_jobs import permitted
from trainer.config import Limits, Resources
from trainer.contract.errors import (
    BootError,
    CapacityError,
    ConfigError,
    CredentialsError,
    OrchestratorError,
    ProviderError,
    QuotaError,
    Scope,
    StoreError,
)


def asked_for(cloud, id):
    return cloud.account[id].facts["asked"]


async def test_an_order_says_how_long_it_may_live_and_holds_no_secret(cloud, provider, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")

    instance = await launched(provider, lives_seconds=7200.5)

    asked = asked_for(cloud, instance.id)
    assert asked["StoppingCondition"] == {"MaxRuntimeInSeconds": 7201}
    assert asked["EnableNetworkIsolation"] is False
    assert asked["AlgorithmSpecification"]["ContainerEntrypoint"][0] == "python3"
    assert "KeepAlivePeriodInSeconds" not in asked["ResourceConfig"]
    for secret in ("hf_secret", os.environ["AWS_SECRET_ACCESS_KEY"]):
        assert secret not in str(asked)
    assert cloud.s3.content(f"jobs/{instance.id}/start/first.sh").decode() == f"{FIRST}\n"


async def test_only_a_spot_order_says_how_long_it_may_wait(cloud, provider):
    a_year = 365 * 86_400.0
    spot = await launched(provider, spot=True, lives_seconds=a_year)
    plain = await launched(provider, attempt=2, lives_seconds=a_year)

    waits = asked_for(cloud, spot.id)["StoppingCondition"]
    assert waits["MaxWaitTimeInSeconds"] >= waits["MaxRuntimeInSeconds"]
    assert asked_for(cloud, plain.id)["StoppingCondition"] == {
        "MaxRuntimeInSeconds": LONGEST_SECONDS
    }
    assert (await provider.describe(spot.id)).spot


async def test_subnets_image_and_role_are_those_that_are_set(cloud, monkeypatch):
    monkeypatch.setenv("SAGEMAKER_IMAGE", "me/mine:1")
    provider = SageMaker(subnets=["subnet-1234"], security_groups=["sg-1234"])

    instance = await launched(provider)

    asked = asked_for(cloud, instance.id)
    assert asked["VpcConfig"] == {"Subnets": ["subnet-1234"], "SecurityGroupIds": ["sg-1234"]}
    assert asked["AlgorithmSpecification"]["TrainingImage"] == "me/mine:1"


def test_the_image_of_a_region_is_in_the_account_that_has_it():
    assert image_in("eu-west-1").startswith("763104351884.dkr.ecr.eu-west-1.")
    assert image_in("eu-south-1").startswith("692866216735.dkr.ecr.eu-south-1.")


@pytest.mark.parametrize(
    ("prepare", "kind", "scope", "words"),
    [
        ({"no_capacity": True}, CapacityError, Scope.OFFER, "Unable to provision"),
        ({"forgets_channel": True}, ProviderError, Scope.ACCOUNT, "role, image or bucket"),
    ],
    ids=["capacity", "channel"],
)
async def test_an_order_that_fails_after_it_was_accepted_says_what_it_rules_out(
    cloud, provider, prepare, kind, scope, words
):
    cloud.no_capacity = prepare.get("no_capacity", False)
    instance = await launched(provider)
    if prepare.get("forgets_channel"):
        cloud.s3.objects.clear()

    failure = await failed(provider, instance.id)

    assert type(failure) is kind
    assert failure.scope is scope
    assert words in str(failure)
    assert cloud.s3.keys() == []
    assert not (await provider.describe(instance.id)).status.is_billing


async def test_a_quota_of_none_rules_out_that_kind_alone(cloud, provider):
    cloud.quota_exceeded = True

    with pytest.raises(QuotaError, match="is 0 Instances") as caught:
        await launched(provider)

    assert caught.value.scope is Scope.OFFER
    assert cloud.s3.keys() == []


async def test_a_kind_that_the_region_lacks_is_a_lack_of_capacity_and_other_mistakes_are_ours(
    cloud, provider
):
    with pytest.raises(CapacityError, match="not supported in this region"):
        await launched(provider, gpu_count=1, gpu_types=["H100"])
    cloud.role_trouble = "Could not assume role arn:aws:iam::123456789012:role/training."
    with pytest.raises(ConfigError, match=r"assume role.*docs/sagemaker\.md"):
        await launched(provider)
    assert cloud.s3.keys() == []


@pytest.mark.thorough
async def test_a_container_that_fails_says_its_last_words_once_its_log_is_there(cloud, monkeypatch):
    monkeypatch.setattr("blocks.providers.sagemaker.packed", lambda: b"raise SystemExit('no disk')")
    cloud.sshd_never = False
    provider = SageMaker()
    instance = await launched(provider)

    failure = await failed(provider, instance.id)

    assert isinstance(failure, BootError)
    assert "exit code: 1" in failure.message
    assert "no disk" in failure.message
    cloud.log_delay = 600
    assert "no disk" not in (await provider.describe(instance.id)).failure.message


async def test_a_spot_machine_that_was_taken_back_is_lost_until_it_is_ended(cloud, provider):
    instance = await launched(provider, spot=True)
    await in_status(provider, instance.id, InstanceStatus.RUNNING)
    cloud.preempt(instance.id)
    assert (await provider.describe(instance.id)).status is InstanceStatus.LOST

    ending, _ = await until_gone(provider, mark(), instance.id)

    assert ending is Ending.GONE


async def test_a_warm_pool_that_was_left_is_billed_listed_and_ended(cloud, provider):
    instance = await launched(provider)
    await in_status(provider, instance.id, InstanceStatus.RUNNING)
    cloud.leave_pool(instance.id)

    [listed] = await provider.instances()
    assert (listed.id, listed.status) == (instance.id, InstanceStatus.LOST)

    ending, _ = await until_gone(provider, mark(), instance.id)
    assert ending is Ending.GONE
    assert cloud.alive() == []


@pytest.mark.thorough
async def test_every_page_of_the_list_is_read(cloud, provider):
    cloud.page = 1
    for attempt in (1, 2, 3):
        await launched(provider, attempt)

    assert {one.mark for one in await provider.instances()} == {mark(1), mark(2), mark(3)}


@pytest.mark.thorough
async def test_a_name_that_is_taken_by_a_job_that_ended_hires_nothing(cloud, provider):
    first = await launched(provider)
    await until_gone(provider, mark(), first.id)

    again = await launched(provider)

    assert (again.id, again.status) == (first.id, InstanceStatus.GONE)
    assert cloud.alive() == []


async def test_a_name_that_is_in_use_is_the_order_whose_answer_was_lost(cloud, provider):
    first = await launched(provider)
    cloud.look_lag = cloud.list_lag = time.time() - cloud.account[first.id].created + 0.3

    again = await launched(provider)

    assert again.id == first.id
    assert cloud.calls()["POST", "/CreateTrainingJob"] == 2
    assert cloud.alive() == [first.id]


async def test_mailboxes_that_no_job_uses_are_swept_when_they_are_old(cloud, provider):
    running = await launched(provider)
    foreign = "jobs/to-deadbeef-" + "0" * 32 + "-1/start/agent.pyz"
    old = time.time() - 7200
    for key in (f"jobs/{mark(7)}/alive", foreign, "jobs/notes.txt"):
        cloud.s3.objects[key] = b"x", old
    cloud.s3.objects[f"jobs/{mark(8)}/start/agent.pyz"] = b"x", time.time()  # about to be ordered

    await provider.sweep()

    left = {key.split("/")[1] for key in cloud.left_over()}
    assert left == {running.id, str(mark(8)), foreign.split("/")[1], "notes.txt"}


def test_prices_are_known_where_they_are_listed_or_set(provider):
    assert provider._price("ml.g5.xlarge", "us-east-1") == 1.408
    assert provider._price("ml.g5.xlarge", "ap-south-1") is None
    mine = SageMaker(prices={"ml.g5.xlarge": 2.0})
    assert mine._price("ml.g5.xlarge", "ap-south-1") == 2.0


async def test_offers_are_what_fits_with_what_is_billed_beside(cloud, provider):
    [cpu, *_] = await provider.offers(Resources(gpu_count=0, disk_gb=50), Limits())
    assert (cpu.storage_gb, cpu.storage_price) == (50, 0.14)
    gpus = await provider.offers(Resources(gpu_types=["A10G"], disk_gb=400), Limits())
    assert gpus[0].instance_type == "ml.g5.2xlarge"  # the disk of the smaller one is 250 GB
    assert gpus[0].storage_gb == 0
    both = await provider.offers(Resources(gpu_types=["T4"], spot=None), Limits())
    assert {offer.spot for offer in both} == {True, False}
    for impossible in (
        Resources(regions=["eu-west-1"]),
        Resources(gpu_types=["B200"]),
        Resources(min_vram_gb=200),
    ):
        with pytest.raises(CapacityError):
            await provider.offers(impossible, Limits())
    assert {kind.gpu_count for kind in KINDS} == {0, 1, 4, 8}


async def test_check_asks_for_jobs_and_writes_to_the_bucket(cloud, provider):
    assert await provider.check() == "0 instances, mailboxes in s3://models/jobs, region us-east-1"
    assert cloud.s3.keys() == []
    cloud.s3.denied = {"PUT"}
    with pytest.raises(StoreError, match=f"s3://{BUCKET}/jobs"):
        await provider.check()


@pytest.mark.parametrize("bucket", ["", "gs://models", "/tmp/folder", "s3://"])
async def test_a_bucket_that_is_none_of_s3_is_named(cloud, provider, monkeypatch, bucket):
    monkeypatch.setenv("SAGEMAKER_BUCKET", bucket)

    with pytest.raises(ConfigError, match="SAGEMAKER_BUCKET"):
        await provider.check()


async def test_a_missing_region_is_named(cloud, provider, monkeypatch):
    monkeypatch.delenv("AWS_REGION")
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)

    with pytest.raises(ConfigError, match="AWS_REGION"):
        await cheapest(provider)


async def test_nothing_is_configured_without_a_role(cloud, monkeypatch):
    monkeypatch.delenv("SAGEMAKER_ROLE")

    assert not SageMaker().is_configured()
    assert SageMaker(role="arn:aws:iam::1:role/x").is_configured()


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("SAGEMAKER_BUCKET", "gs://x", "'gs://x' names no bucket of S3"),
        ("SAGEMAKER_BUCKET", "", "'' names no bucket of S3"),
        ("SAGEMAKER_ROLE", "training", "'training' is not the ARN of a role"),
    ],
)
async def test_a_setting_that_cannot_be_used_is_named(provider, monkeypatch, name, value, words):
    monkeypatch.setenv(name, value)

    for use in (provider.check(), launched(provider)):
        with pytest.raises(ConfigError, match=f"{name} = {words}") as caught:
            await use
        assert name == "SAGEMAKER_ROLE" or "s3://models/jobs" in caught.value.suggestion


async def test_a_disk_that_is_billed_beside_counts_for_the_highest_price(provider):
    offer = await cheapest(provider)
    assert offer.whole_per_hour > offer.price_per_hour

    with pytest.raises(CapacityError, match="max_price_per_hour"):
        await provider.offers(
            Resources(gpu_count=0), Limits(max_price_per_hour=offer.price_per_hour)
        )


@pytest.mark.thorough
async def test_a_tag_that_changes_outweighs_the_name(cloud, provider):
    instance = await launched(provider)
    kept = Mark.kept(2_000_000_000, "0badcafe")
    await provider.remark(instance.id, kept)
    cloud.expired = True
    with pytest.raises(CredentialsError) as caught:
        await provider.find(kept)
    assert isinstance(caught.value, OrchestratorError)
    cloud.expired = False

    assert (await provider.find(kept)).id == instance.id


def test_the_least_policy_permits_what_is_called_and_nothing_else():
    """The local server refuses whatever the page does not permit, so this is the other half."""
    folder = Path(sagemaker.__file__).parent
    text = "\n".join(path.read_text() for path in folder.glob("*.py"))
    calls = set(re.findall(r'"([a-z]+_(?:training_jobs?|tags|log_streams|log_events))"', text))
    names = {"".join(word.capitalize() for word in call.split("_")) for call in calls}

    services = {action.partition(":")[2] for action in permitted() if not action.startswith("s3:")}

    assert services == names | {"PassRole"}
