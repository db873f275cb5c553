"""What the answers of EC2 mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from blocks.marks import ours
from blocks.models import Instance, InstanceStatus
from blocks.providers.aws.errors import LATE
from blocks.providers.aws.kinds import EGRESS_GB, GB_MONTH, KINDS, PUBLIC_ADDRESS
from blocks.providers.cloud import not_as_described
from trainer.contract.errors import OrchestratorError, QuotaError, Scope

DISK_TAG = "disk-gib"
"""The tag that says how large an instance's disk is, which no description of it does."""
MAILBOX_TAG = "mailbox"
"""The tag of an instance without inbound network: the address of its mailbox."""
LIVE = ["pending", "running", "shutting-down", "stopping", "stopped"]
"""The states in which an instance, or its disk, is billed."""
STATUSES = {
    "pending": InstanceStatus.PROVISIONING,
    "running": InstanceStatus.RUNNING,
    "shutting-down": InstanceStatus.STOPPING,
    "terminated": InstanceStatus.GONE,
    # Its disk is billed, and it never comes back by itself.
    "stopping": InstanceStatus.LOST,
    "stopped": InstanceStatus.LOST,
}
USERS_WORD = "Client.UserInitiatedShutdown"
"""The reason of an end that was asked for by the API."""


def id_of(region: str, instance_id: str) -> str:
    """Return our id of an instance, which says in which region it is: no list is of all regions."""
    return f"{region}/{instance_id}"


def instance_of(row: Mapping[str, Any], region: str, *, user: str, port: int) -> Instance:
    """Return an instance of DescribeInstances or RunInstances; the price is not in it."""
    id = id_of(region, str(row["InstanceId"]))
    try:
        return _instance(row, id, region, user=user, port=port)
    except (AttributeError, LookupError, TypeError, ValueError):
        return not_as_described("aws", "AWS", id=id, mark=_mark_in(row))


def _instance(row: Mapping[str, Any], id: str, region: str, *, user: str, port: int) -> Instance:
    kind = KINDS.get(_text(row.get("InstanceType")))
    state = _text((row.get("State") or {}).get("Name"))
    reason = row.get("StateReason") or {}
    code = _text(reason.get("Code"))
    zone = _text((row.get("Placement") or {}).get("AvailabilityZone"))
    mailbox = _tag(row, MAILBOX_TAG)
    address = mailbox or _text(row.get("PublicIpAddress"))
    return Instance(
        provider="aws",
        id=id,
        mark=ours(name_of(row)),
        status=_status(state, code, address),
        detail=f"{state}: {_text(reason.get('Message')) or code}" if code else state,
        failure=_failure(state, code, _text(reason.get("Message")), region),
        address=address,
        private_address=_text(row.get("PrivateIpAddress")),
        port=port,
        user=user,
        instance_type=_text(row.get("InstanceType")),
        region=region,
        zone=zone,
        host=host_of(_text(row.get("InstanceType")), zone),
        spot=row.get("InstanceLifecycle") == "spot",
        storage_gb=float(size) if (size := _tag(row, DISK_TAG)).isdecimal() else 0.0,
        storage_price=GB_MONTH,
        beside_per_hour=0.0 if mailbox else PUBLIC_ADDRESS,
        traffic_price=EGRESS_GB,
        gpu_type=kind.gpu if kind and kind.gpus else None,
        gpu_count=kind.gpus if kind else 0,
    )


def _status(state: str, reason: str, address: str) -> InstanceStatus:
    status = STATUSES.get(state, InstanceStatus.UNKNOWN)
    # "running" may come before the address does, and without one there is nothing to connect to.
    if status is InstanceStatus.RUNNING and not address:
        return InstanceStatus.PROVISIONING
    # Taken back, or shut down from within: it ends, and not because we asked for that.
    if status is InstanceStatus.STOPPING and reason and reason != USERS_WORD:
        return InstanceStatus.LOST
    return status


def _failure(state: str, code: str, words: str, region: str) -> OrchestratorError | None:
    """Return why an order came to nothing after AWS had taken it."""
    kind = LATE.get(code)
    if kind is None or state not in {"shutting-down", "terminated"}:
        return None
    error = kind(f"AWS says in {region}: {words.rstrip('.') or code} ({code}).")
    return error.ruling_out(Scope.REGION if kind is QuotaError else Scope.OFFER)


def name_of(row: Mapping[str, Any]) -> str:
    """Return the name tag; empty: there is none."""
    return _tag(row, "Name")


def _tag(row: Mapping[str, Any], key: str) -> str:
    values = [tag.get("Value") for tag in row.get("Tags") or () if tag.get("Key") == key]
    return _text(values[0]) if values else ""


def host_of(instance_type: str, zone: str) -> str:
    """Return what is avoided when a machine of a kind in a zone fails."""
    return f"{instance_type} in {zone}"


def vcpus_of(row: Mapping[str, Any]) -> int:
    """Return how many vCPUs an instance counts in its quota; 0: it does not say."""
    if kind := KINDS.get(str(row.get("InstanceType"))):
        return kind.vcpus
    options = row.get("CpuOptions")
    cores = options.get("CoreCount") if isinstance(options, dict) else None
    threads = options.get("ThreadsPerCore") if isinstance(options, dict) else None
    return cores * threads if isinstance(cores, int) and isinstance(threads, int) else 0


def family_of(instance_type: str) -> str:
    """Return which quota a type counts against, ours or not."""
    if kind := KINDS.get(instance_type):
        return kind.family
    if instance_type.startswith(("g", "vt")):
        return "G"
    if instance_type.startswith("p"):
        return "P" if instance_type.startswith(("p2", "p3", "p4")) else "P5"
    return "standard"


def _mark_in(row: Mapping[str, Any]) -> str:
    try:
        return name_of(row)
    except (AttributeError, TypeError):
        return ""


def _text(value: Any) -> str:
    """Return a text of an answer, which may be missing.

    Raises:
        TypeError: it is something else.
    """
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    raise TypeError(f"{value!r} is not a text")
