"""What AWS's error codes mean. The code is read before the HTTP status: no capacity is a 500."""

from __future__ import annotations

from collections.abc import Mapping

from blocks.providers.boto import Refusal
from trainer.contract.errors import (
    CapacityError,
    ConfigError,
    OrchestratorError,
    ProviderError,
    QuotaError,
    Scope,
)

NO_INSTANCE = {"InvalidInstanceID.NotFound", "InvalidInstanceID.Malformed"}
DUPLICATE = {"InvalidGroup.Duplicate", "InvalidPermission.Duplicate"}
"""Somebody else did it at the same time."""
PERMITTED = "DryRunOperation"
MISMATCH = "IdempotentParameterMismatch"
_CAPACITY = {
    *("InsufficientInstanceCapacity", "InsufficientHostCapacity", "InsufficientCapacityOnHost"),
    *("InsufficientCapacity", "Unsupported", "SpotMaxPriceTooLow", "UnfulfillableCapacity"),
    *("InsufficientFreeAddressesInSubnet", "IdempotentInstanceTerminated", MISMATCH),
}
_QUOTA_OF_A_KIND = {"VcpuLimitExceeded", "MaxSpotInstanceCountExceeded", "InstanceLimitExceeded"}
"""Families of types have quotas of their own, and spot machines others: the region has more."""
_QUOTA = {
    *_QUOTA_OF_A_KIND,
    *("VolumeLimitExceeded", "AddressLimitExceeded", "MaxIOPSLimitExceeded"),
    *("NetworkInterfaceLimitExceeded", "SecurityGroupLimitExceeded"),
}
_SETTINGS = (
    *("InvalidParameter", "InvalidAMIID", "InvalidSubnet", "InvalidVpcID", "InvalidGroup.NotFound"),
    *("VPCIdNotSpecified", "InvalidIamInstanceProfile", "NoSuchEntity", "MissingParameter"),
    "InvalidSecurityGroup",
)
"""How the codes begin of what no other offer would mend, such as a wrong instance profile."""
LATE: Mapping[str, type[ProviderError]] = {
    "Server.InsufficientInstanceCapacity": CapacityError,
    "Server.InternalError": CapacityError,
    "Client.VolumeLimitExceeded": QuotaError,
    "Client.InternalError": ProviderError,
    "Client.InvalidSnapshot.NotFound": ProviderError,
}
"""Why an instance ended that had never run, by the code of its state's reason."""


def error_of(refusal: Refusal, region: str) -> OrchestratorError:
    """Return what a refusal means."""
    code = refusal.code
    message = f"{refusal.message.rstrip('.')} in {region}."
    if code in _CAPACITY:
        return CapacityError(message)
    if code in _QUOTA:
        error = QuotaError(
            message, f"Ask for more at Service Quotas in {region}, or allow other regions."
        )
        return error.ruling_out(Scope.OFFER) if code in _QUOTA_OF_A_KIND else error
    if code.startswith(_SETTINGS):
        return ConfigError(message, "Correct the AWS settings: docs/aws.md has them all.")
    return ProviderError(message)
