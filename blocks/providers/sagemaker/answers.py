"""What SageMaker's answers mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from blocks.marks import Mark, ours
from blocks.models import Instance, InstanceStatus
from blocks.providers.boto import Refusal
from blocks.providers.cloud import not_as_described
from blocks.providers.sagemaker.kinds import BY_NAME, STORAGE_PRICE, TRAFFIC_PRICE
from trainer.contract.errors import (
    BootError,
    CapacityError,
    ConfigError,
    OrchestratorError,
    ProviderError,
    QuotaError,
    Scope,
)

TITLE = "SageMaker"
RUNNING = {"Training", "Uploading"}
TAKEN = {"Interrupted", "Restarting"}
"""A spot machine was taken back. SageMaker would start the job again; we hire again ourselves."""
BOOTING = {
    *("Starting", "Pending", "LaunchingMLInstances", "PreparingTrainingStack"),
    *("Downloading", "DownloadingTrainingImage"),
}
ENDED = {"Completed", "Failed", "Stopped", "Deleting"}
POOL_THAT_WAITS = "Available"
NOT_THERE = {"ResourceNotFound", "ResourceNotFoundException"}


def is_missing(error: Refusal) -> bool:
    """Whether a refusal says that there is no such job."""
    gone = error.code == "ValidationException" and "not found" in error.message.lower()
    return gone or error.code in NOT_THERE


def meaning(error: Refusal) -> OrchestratorError:
    """Return the error of ours that a refusal stands for."""
    if error.code == "ResourceLimitExceeded":
        # Each kind has a quota of its own, and managed spot another one.
        remedy = "Ask for more in the Service Quotas console, under Amazon SageMaker."
        return QuotaError(error.message, remedy).ruling_out(Scope.OFFER)
    if error.code == "ValidationException" and "instancetype" in _letters(error.message):
        return CapacityError(error.message)  # a kind that this region does not have
    if error.code == "ValidationException":
        return ConfigError(
            error.message, "Correct the settings of the provider; see docs/sagemaker.md."
        )
    return ProviderError(error.message)


def _letters(text: str) -> str:
    return "".join(filter(str.isalpha, text)).lower()


def status_of(row: Mapping[str, Any]) -> InstanceStatus:
    """Return the status of a description, or of a row of the list."""
    status, second = str(row.get("TrainingJobStatus")), str(row.get("SecondaryStatus") or "")
    if status in ENDED:
        # Its machine waits for another job, and is billed; it was not ordered like that by us.
        return InstanceStatus.LOST if pool_of(row) == POOL_THAT_WAITS else InstanceStatus.GONE
    if status == "Stopping":
        return InstanceStatus.STOPPING
    if status != "InProgress":
        return InstanceStatus.UNKNOWN
    if second in TAKEN:
        return InstanceStatus.LOST
    if second in RUNNING:
        return InstanceStatus.RUNNING
    return InstanceStatus.PROVISIONING if second in BOOTING else InstanceStatus.UNKNOWN


def pool_of(row: Mapping[str, Any]) -> str:
    """Return what a job's warm pool does; empty if it has none."""
    return str((row.get("WarmPoolStatus") or {}).get("Status") or "")


def failure_of(row: Mapping[str, Any], last_words: str) -> OrchestratorError | None:
    """Return why an order came to nothing that was accepted.

    Args:
        row: a description.
        last_words: what its container printed last.
    """
    if row.get("TrainingJobStatus") != "Failed":
        return None
    reason = str(row.get("FailureReason") or "it does not say why").rstrip(".")
    message = f"SageMaker: {row.get('TrainingJobName')} failed: {reason}."
    if reason.startswith("CapacityError"):
        return CapacityError(message)
    if reason.startswith("ResourceLimitExceeded"):
        return QuotaError(message).ruling_out(Scope.OFFER)
    if reason.startswith("ClientError"):  # an image or a bucket that its role may not read
        remedy = "Correct role, image or bucket; see docs/sagemaker.md."
        return ProviderError(message, remedy).ruling_out(Scope.ACCOUNT)
    return BootError(f"{message[:-1]}{f': {last_words}' if last_words else ''}.")


def mark_of(name: str, tags: Mapping[str, str], key: str) -> Mark | None:
    """Return the mark of a job: its tag, which changes, or its name, which was its first mark."""
    return ours(tags.get(key, name))


def instance_of(
    row: Mapping[str, Any],
    *,
    mark: Mark | None,
    region: str,
    mailbox: str,
    last_words: str,
    price: float | None,
) -> Instance:
    """Return a description as an instance; one that cannot be read has the status unknown."""
    try:
        resources = row.get("ResourceConfig") or {}
        type = str(resources.get("InstanceType") or "")
        kind = BY_NAME.get(type)
        second = str(row.get("SecondaryStatus") or row.get("TrainingJobStatus") or "")
        volume = 0.0 if kind and kind.own_disk_gb else float(resources.get("VolumeSizeInGB") or 0)
        return Instance(
            provider="sagemaker",
            id=str(row["TrainingJobName"]),
            mark=mark,
            status=status_of(row),
            detail=second,
            failure=failure_of(row, last_words),
            address=mailbox,
            instance_type=type,
            region=region,
            host=f"{type} in {region}",
            spot=bool(row.get("EnableManagedSpotTraining")),
            price_per_hour=price,
            gpu_type=kind.gpu_type if kind else None,
            gpu_count=kind.gpu_count if kind else 0,
            storage_gb=volume,
            storage_price=STORAGE_PRICE,
            traffic_price=TRAFFIC_PRICE,
        )
    except (AttributeError, LookupError, TypeError, ValueError):
        name = str(row.get("TrainingJobName"))
        return not_as_described("sagemaker", TITLE, id=name, mark=str(mark or ""))
