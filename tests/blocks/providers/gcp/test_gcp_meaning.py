"""What Google Cloud's errors mean, of answers and of operations, and what its rows are."""

import ast
from pathlib import Path

import httpx
import pytest

import blocks.providers.gcp
from blocks.models import InstanceStatus
from blocks.providers.api import Answer
from blocks.providers.gcp.answers import error_of, failed, instance_of, meaning
from tests.clouds.gcp_refusals import quota_exceeded, sold_out
from trainer.contract.errors import (
    CapacityError,
    ConfigError,
    ConnectionLost,
    CredentialsError,
    ProviderError,
    QuotaError,
    RateLimited,
    Scope,
)

ZONE = "us-central1-a"


def of_operation(code, words="No.", **more):
    row = {"code": code, "message": words, **more}
    return meaning(failed({"status": "DONE", "error": {"errors": [row]}}))


def of_answer(status, reason, words="No.", *details, word=""):
    body = {"code": status, "message": words, "errors": [{"reason": reason}], "status": word}
    data = {"error": {**body, "details": list(details)}}
    return error_of(Answer(status=status, data=data, headers=httpx.Headers()))


@pytest.mark.parametrize(
    "code",
    [
        "ZONE_RESOURCE_POOL_EXHAUSTED",
        "ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS",
        "STOCKOUT",
        "insufficientCapacity",
        "resource_availability",
        "PREEMPTED",
        "RESOURCE_OPERATION_RATE_EXCEEDED",
    ],
)
def test_every_spelling_of_sold_out_leads_to_the_next_offer(code):
    error = of_operation(code)

    assert (type(error), error.scope) == (CapacityError, Scope.OFFER)


def test_the_error_of_a_sold_out_zone_names_others():
    found = failed({"status": "DONE", "error": {"errors": [sold_out(ZONE, "g2", "a-b, c-d")]}})

    assert meaning(found).zones == ("a-b", "c-d")


def test_a_machine_that_is_taken_back_while_it_starts_is_a_lack_of_capacity():
    words = "Instance failed to start due to preemption."

    assert type(of_operation("UNSUPPORTED_OPERATION", words)) is CapacityError
    assert type(of_operation("UNSUPPORTED_OPERATION", "Not so.")) is ProviderError


@pytest.mark.parametrize(
    ("metric", "region", "scope"),
    [
        ("NVIDIA_L4_GPUS", "us-central1", Scope.REGION),
        ("GPUS_ALL_REGIONS", "", Scope.ACCOUNT),
        ("CPUS_ALL_REGIONS", "", Scope.ACCOUNT),
    ],
)
def test_a_quota_rules_out_its_region_or_the_project(metric, region, scope):
    operation = {"status": "DONE", "error": {"errors": [quota_exceeded(metric, 0.0, region)]}}

    error = meaning(failed(operation))

    assert (type(error), error.scope) == (QuotaError, scope)
    said = of_answer(403, "quotaExceeded", f"Quota '{metric}' exceeded. Limit: 0.0.")
    assert (type(said), said.scope) == (QuotaError, scope)


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (of_answer(403, "rateLimitExceeded"), RateLimited, ""),
        (of_answer(404, "notFound", "The resource 'projects/p/global/networks/default' was not found"), ConfigError, "GCP_NETWORK"),
        (of_answer(404, "notFound", "The resource 'projects/p/global/images/family/f' was not found"), ConfigError, "GCP_IMAGE"),
        (of_answer(400, "invalid", "Machine type with name 'x' does not exist in zone 'z'."), CapacityError, ""),
        (of_answer(400, "resourceNotReady"), ProviderError, ""),
        (of_answer(403, "forbidden", "Required 'compute.instances.create' permission for 'p'"), CredentialsError, "Grant compute.instances.create"),
        (of_answer(403, "", "No.", {"reason": "IAM_PERMISSION_DENIED"}), CredentialsError, "docs/gcp.md"),
        (of_answer(403, "accessNotConfigured"), CredentialsError, "enable compute.googleapis.com"),
        (of_answer(403, "", "Off.", {"reason": "SERVICE_DISABLED", "metadata": {"service": "x.googleapis.com"}}), CredentialsError, "enable x.googleapis.com"),
        (of_answer(403, "forbidden", "This API method requires billing to be enabled."), CredentialsError, "billing account"),
        (of_answer(412, "conditionNotMet", "Constraint constraints/compute.vmExternalIpAccess violated."), ConfigError, "constraints/compute.vmExternalIpAccess"),
        (of_operation("CONDITION_NOT_MET", "constraints/compute.requireOsLogin"), ConfigError, "constraints/compute.requireOsLogin"),
        (of_answer(401, "authError"), CredentialsError, ""),
        (of_answer(409, "alreadyExists"), ProviderError, ""),
        (error_of(Answer(status=403, data="<html>", headers=httpx.Headers())), ConnectionLost, ""),
        (error_of(Answer(status=401, data=None, headers=httpx.Headers())), CredentialsError, ""),
    ],
)  # fmt: skip
def test_errors_are_told_apart_and_name_the_remedy(error, kind, words):
    assert type(error) is kind
    assert words in str(error)


@pytest.mark.parametrize(
    ("word", "status"),
    [
        ("PENDING", InstanceStatus.PROVISIONING),
        ("PROVISIONING", InstanceStatus.PROVISIONING),
        ("STAGING", InstanceStatus.PROVISIONING),
        ("RUNNING", InstanceStatus.RUNNING),
        ("REPAIRING", InstanceStatus.UNKNOWN),
        ("PENDING_STOP", InstanceStatus.STOPPING),
        ("STOPPING", InstanceStatus.STOPPING),
        ("DEPROVISIONING", InstanceStatus.STOPPING),
        ("SUSPENDING", InstanceStatus.STOPPING),
        ("TERMINATED", InstanceStatus.LOST),
        ("STOPPED", InstanceStatus.LOST),
        ("SUSPENDED", InstanceStatus.LOST),
        ("DREAMING", InstanceStatus.UNKNOWN),
        (None, InstanceStatus.UNKNOWN),
    ],
)
def test_statuses(word, status):
    faces = [{"networkIP": "10.0.0.2", "accessConfigs": [{"natIP": "198.51.100.2"}]}]
    row = {"name": "a", "status": word, "networkInterfaces": faces}

    found = instance_of(row, ZONE, user="u", port=22)

    assert (found.status, found.address, found.private_address) == (
        status,
        "198.51.100.2",
        "10.0.0.2",
    )
    assert (found.id, found.zone, found.region) == (f"{ZONE}/a", ZONE, "us-central1")


def test_what_runs_without_an_address_does_not_run_yet():
    row = {"name": "a", "status": "RUNNING", "networkInterfaces": [{"accessConfigs": [{}]}]}

    assert instance_of(row, ZONE, user="u", port=22).status is InstanceStatus.PROVISIONING


@pytest.mark.parametrize(
    ("row", "kind", "price", "gpus"),
    [
        ({"machineType": "https://x/machineTypes/g2-standard-4"}, "g2-standard-4", 0.7068, 1),
        (
            {
                "machineType": "https://x/machineTypes/g2-standard-4",
                "scheduling": {"provisioningModel": "SPOT"},
            },
            "g2-standard-4",
            0.2827,
            1,
        ),
        (
            {
                "machineType": "zones/z/machineTypes/n1-standard-8",
                "guestAccelerators": [
                    {"acceleratorType": "https://x/nvidia-tesla-t4", "acceleratorCount": 1}
                ],
            },
            "n1-standard-8+1xnvidia-tesla-t4",
            0.73,
            1,
        ),
        ({"machineType": "zones/z/machineTypes/c9-new-4"}, "c9-new-4", None, 0),
    ],
)
def test_an_instance_says_by_its_kind_what_it_costs(row, kind, price, gpus):
    row = {"name": "a", "disks": [{"diskSizeGb": "200"}], **row}

    found = instance_of(row, ZONE, user="u", port=22)

    assert (found.instance_type, found.price_per_hour, found.gpu_count) == (kind, price, gpus)
    assert (found.storage_gb, found.beside_per_hour) == (200.0, 0.0)


def test_googles_packages_are_imported_where_they_are_used():
    for path in Path(blocks.providers.gcp.__file__).parent.glob("*.py"):
        for node in ast.parse(path.read_text()).body:
            names = [alias.name for alias in getattr(node, "names", ())]
            module = getattr(node, "module", "") or ""
            assert not any(name.startswith("google") for name in [module, *names]), path
