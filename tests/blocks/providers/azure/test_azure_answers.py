"""What the answers of Azure mean: errors by their codes, and the words for a machine's state."""

import time

import httpx
import pytest
from azure.mgmt.compute import models

from blocks.models import InstanceStatus
from blocks.providers.api import Answer, Unanswered
from blocks.providers.azure.answers import error_of
from blocks.providers.azure.machines import CREATING_SECONDS, state_of
from tests.blocks.providers.azure.azure_account import launched, running
from tests.blocks.providers.rented_account import mark
from trainer.contract.errors import (
    BootError,
    CapacityError,
    ConfigError,
    ConnectionLost,
    CredentialsError,
    FundsError,
    ProviderError,
    QuotaError,
    RateLimited,
    Scope,
)

QUOTA = (
    "Operation could not be completed as it results in exceeding approved {} Cores quota. "
    "Additional details - Deployment Model: Resource Manager, Location: westeurope, Current Limit: "
    "24, Current Usage: 12, Additional Required: 48, (Minimum) New Limit Required: 60."
)


def refused(status, code, message="It says so."):
    body = {"error": {"code": code, "message": message}}
    return error_of(Answer(status=status, data=body, headers=httpx.Headers()))


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (409, "SkuNotAvailable", CapacityError),
        (409, "AllocationFailed", CapacityError),
        (409, "ZonalAllocationFailed", CapacityError),
        (409, "OverconstrainedAllocationRequest", CapacityError),
        (409, "OverconstrainedZonalAllocationRequest", CapacityError),
        (400, "PublicIPCountLimitReached", QuotaError),
        (409, "QuotaExceeded", QuotaError),
        (409, "OperationNotAllowed", ProviderError),
        (409, "Conflict", RateLimited),
        (409, "AnotherOperationInProgress", RateLimited),
        (409, "OperationPreempted", RateLimited),
        (409, "RetryableError", RateLimited),
        (409, "NetworkingInternalOperationError", RateLimited),
        (409, "ResourceGroupBeingDeleted", RateLimited),
        (400, "NicInUse", RateLimited),
        (400, "PublicIPAddressCannotBeDeleted", RateLimited),
        (409, "OSProvisioningTimedOut", BootError),
        (409, "VMStartTimedOut", BootError),
        (409, "VMExtensionProvisioningError", BootError),
        (403, "AuthorizationFailed", CredentialsError),
        (403, "LinkedAuthorizationFailed", CredentialsError),
        (401, "InvalidAuthenticationToken", CredentialsError),
        (404, "SubscriptionNotFound", CredentialsError),
        (409, "ReadOnlyDisabledSubscription", FundsError),
        (409, "MissingSubscriptionRegistration", ConfigError),
        (400, "InvalidParameter", ConfigError),
        (404, "PlatformImageNotFound", ConfigError),
        (400, "SkuNotSupported", ConfigError),
        (403, "RequestDisallowedByPolicy", ConfigError),
        (418, "NobodyKnows", ProviderError),
    ],
)
def test_a_code_decides_what_kind_of_error_it_is(status, code, kind):
    error = refused(status, code)

    assert type(error) is kind
    assert code in str(error) or kind is ConfigError
    assert error.suggestion


@pytest.mark.parametrize(
    ("family", "scope"),
    [
        ("standardNCADSA100v4Family", Scope.OFFER),
        ("Total Regional", Scope.REGION),
        ("LowPriorityCores", Scope.OFFER),
    ],
)
def test_a_quota_is_told_from_a_conflict_by_its_words_which_name_all_of_it(family, scope):
    error = refused(409, "OperationNotAllowed", QUOTA.format(family))

    assert (type(error), error.scope) == (QuotaError, scope)
    for word in (family, "westeurope", "12 of 24", "48 more"):
        assert word in error.message


def test_a_missing_right_and_a_resource_provider_are_named():
    action, scope = "Microsoft.Compute/virtualMachines/write", "/subscriptions/s"
    words = f"The client 'x' does not have authorization to perform action '{action}' over scope "
    right = refused(403, "AuthorizationFailed", f"{words}'{scope}' or the scope is invalid.")
    words = "The subscription is not registered to use namespace 'Microsoft.DevTestLab'. See x."
    registration = refused(409, "MissingSubscriptionRegistration", words)

    assert f"lacks the right {action} on {scope}" in right.message
    assert "az provider register --namespace Microsoft.DevTestLab" in registration.suggestion


@pytest.mark.parametrize(
    ("status", "data", "kind"),
    [
        (403, "<html>blocked</html>", ConnectionLost),
        (401, "", CredentialsError),
        (408, None, Unanswered),
        (200, "x", Unanswered),
    ],
)
def test_an_answer_without_a_code_is_no_refusal(status, data, kind):
    error = error_of(Answer(status=status, data=data, headers=httpx.Headers()))

    assert type(error) is kind


def facts(made="Succeeded", power="", age=0.0, **more):
    codes = [{"code": f"PowerState/{power}"}] if power else []
    at = time.strftime("%Y-%m-%dT%H:%M:%S.0000000+00:00", time.gmtime(time.time() - age))
    return {
        "provisioningState": made,
        "timeCreated": at,
        "instanceView": {"statuses": codes},
        **more,
    }


@pytest.mark.parametrize(
    ("said", "status"),
    [
        (facts("Creating"), InstanceStatus.PROVISIONING),
        (facts("Updating"), InstanceStatus.PROVISIONING),
        (facts(power="starting"), InstanceStatus.PROVISIONING),
        (facts(power="running"), InstanceStatus.RUNNING),
        (facts("Updating", "running"), InstanceStatus.RUNNING),
        (facts(power="stopping"), InstanceStatus.STOPPING),
        (facts(power="deallocating"), InstanceStatus.STOPPING),
        (facts("Deleting", "running"), InstanceStatus.STOPPING),
        (facts(power="stopped"), InstanceStatus.LOST),
        (facts(power="deallocated"), InstanceStatus.LOST),
        (facts("Failed"), InstanceStatus.LOST),
        (facts("Canceled"), InstanceStatus.LOST),
        (facts("Creating", age=CREATING_SECONDS + 60), InstanceStatus.LOST),
        (facts(), InstanceStatus.UNKNOWN),
        (facts(instanceView=None), InstanceStatus.UNKNOWN),
        (facts("Dreaming", "running"), InstanceStatus.UNKNOWN),
        (facts(power="hibernated"), InstanceStatus.UNKNOWN),
    ],
)
def test_words_of_azure_become_a_status_and_all_are_billed(said, status):
    found, detail, failure = state_of(said)

    assert found is status
    assert found.is_billing
    failed = said["provisioningState"] in {"Failed", "Canceled"} or status is InstanceStatus.LOST
    assert failure is None or failed
    assert detail


def test_a_machine_that_hangs_in_creating_has_failed_to_boot():
    _, _, failure = state_of(facts("Creating", age=CREATING_SECONDS + 60))

    assert isinstance(failure, BootError)
    assert "Creating for 40 minutes" in failure.message


async def test_a_machine_without_its_view_counts_as_billed(cloud, provider, key):
    instance = await running(provider, key)
    cloud.without_view = True

    assert (await provider.describe(instance.id)).status is InstanceStatus.UNKNOWN


async def test_what_is_sent_and_answered_is_what_azures_own_models_know(cloud, provider, key):
    """The order, and the answers about a machine, its disk, the sizes and the quota."""
    await launched(provider, key, spot=True)
    [rented] = cloud.all
    rows = {
        models.VirtualMachine: await provider._rows(provider._group()),
        models.Disk: await provider._listed("Microsoft.Compute/disks", provider._group()),
        models.ResourceSku: [size.row("westeurope") for size in cloud.sizes.values()],
    }

    assert unknown(models.VirtualMachine, rented.facts["asked"]) == []
    for model, found in rows.items():
        assert found
        assert [name for row in found for name in unknown(model, row)] == []
    parsed = models.VirtualMachine(rows[models.VirtualMachine][0])
    assert parsed.properties.priority == "Spot"
    assert parsed.properties.eviction_policy == "Delete"
    assert parsed.properties.storage_profile.os_disk.delete_option == "Delete"
    assert parsed.properties.instance_view.statuses[0].code.startswith("ProvisioningState/")
    assert mark() == (await provider.find(mark())).mark


def unknown(model, value, path=""):
    """Return the fields of a value that a model of Azure's, or those within it, do not have."""
    if isinstance(value, list):
        return [name for one in value for name in unknown(model, one, path)]
    if not isinstance(value, dict) or not hasattr(model, "_attr_to_rest_field"):
        return []
    parsed = model(value)
    fields = {f._rest_name: name for name, f in parsed._attr_to_rest_field.items()}
    found = [f"{path}{name}" for name in value if name not in fields]
    for name, part in value.items():
        if name in fields and isinstance(part, (dict, list)):
            inner = getattr(parsed, fields[name])
            inner = inner[0] if isinstance(inner, list) and inner else inner
            found += unknown(type(inner), part, f"{path}{name}.")
    return found
