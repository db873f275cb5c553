"""What the answers of Compute Engine mean, by its discovery document v1."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from blocks.marks import ours
from blocks.models import Instance, InstanceStatus
from blocks.providers.api import Answer
from blocks.providers.cloud import not_as_described
from blocks.providers.gcp.table import KINDS, extras_of, price_in, region_of
from trainer.contract.errors import (
    CapacityError,
    ConfigError,
    ConnectionLost,
    CredentialsError,
    OrchestratorError,
    ProviderError,
    QuotaError,
    RateLimited,
    Scope,
)

LABEL = "to-name"
"""Holds the text of the mark: an instance's own name cannot change while it runs."""
MAILBOX = "training-orchestrator-mailbox"
"""Metadata of an instance without inbound network: the address of its mailbox."""
DONE = "DONE"
STATUSES = {
    **dict.fromkeys(("PENDING", "PROVISIONING", "STAGING"), InstanceStatus.PROVISIONING),
    "RUNNING": InstanceStatus.RUNNING,
    "REPAIRING": InstanceStatus.UNKNOWN,
    **dict.fromkeys(
        ("PENDING_STOP", "STOPPING", "DEPROVISIONING", "SUSPENDING"), InstanceStatus.STOPPING
    ),
    # Its disk is billed on, and it runs no more: it is to be ended.
    **dict.fromkeys(("TERMINATED", "STOPPED", "SUSPENDED"), InstanceStatus.LOST),
}
SOLD_OUT = (
    *("zoneresourcepoolexhausted", "resourcepoolexhausted", "resourceavailability"),
    *("stockout", "insufficientcapacity"),
)
"""How codes of a sold-out zone begin; there is more than one spelling of each."""
RATE = ("ratelimitexceeded", "userratelimitexceeded", "resourceoperationrateexceeded")
DISABLED = ("servicedisabled", "accessnotconfigured")
ASK_QUOTA = "Ask for more at console.cloud.google.com/iam-admin/quotas, or allow other providers."


@dataclass(frozen=True, slots=True)
class Failure:
    """What an error says, of an answer or of an operation."""

    status: int
    """Of HTTP; 0: of an operation."""
    words: str
    codes: tuple[str, ...]
    """In lower case, without separators: both QUOTA_EXCEEDED and quotaExceeded occur."""
    zones: tuple[str, ...] = ()
    """That have what this one lacks."""
    metric: str = ""
    """Whose quota is used up."""
    service: str = ""
    """The API that is not enabled."""

    def has(self, *codes: str) -> bool:
        """Whether one of the codes begins with one of these."""
        return any(code.startswith(codes) for code in self.codes)


def failure_of(answer: Answer) -> Failure | None:
    """Return what an answer reports; None where it is not an error of the API."""
    error = answer.data.get("error") if isinstance(answer.data, dict) else None
    if answer.ok or not isinstance(error, dict):
        return None
    details = _objects(error.get("details"))
    errors = _objects(error.get("errors"))
    said = [error.get("status"), *(row.get("reason") for row in (*errors, *details))]
    return Failure(answer.status, str(error.get("message") or ""), _codes(said), **_facts(details))


def failed(operation: Mapping[str, Any]) -> Failure | None:
    """Return why an operation has failed; None where it has not, or not yet."""
    error = operation.get("error")
    if operation.get("status") != DONE or not isinstance(error, dict):
        return None
    errors = _objects(error.get("errors"))
    details = [detail for row in errors for detail in _objects(row.get("errorDetails"))]
    infos = [info for detail in details if isinstance(info := detail.get("errorInfo"), dict)]
    quotas = [info for detail in details if isinstance(info := detail.get("quotaInfo"), dict)]
    said = [*(row.get("code") for row in errors), *(info.get("reason") for info in infos)]
    words = " ".join(str(row.get("message") or row.get("code") or "") for row in errors)
    return Failure(0, words or "no reason given", _codes(said), **_facts([*infos, *quotas]))


def is_rate(failure: Failure) -> bool:
    """Whether it says that calls come too often."""
    return failure.has(*RATE)


def error_of(answer: Answer) -> OrchestratorError:
    """Return what a failure means."""
    failure = failure_of(answer)
    if failure is not None:
        return meaning(failure)
    if answer.status == 401:
        return CredentialsError("Google Cloud refuses the credentials.")
    # Said by something in front of the API.
    return ConnectionLost(f"Google Cloud's API answers HTTP {answer.status} and no more.")


def meaning(failure: Failure) -> OrchestratorError:
    """Return what a failure means, by its codes before its words."""
    words = failure.words.strip().rstrip(".")
    message = f"Google Cloud says: {words} ({failure.codes[0] if failure.codes else 'no code'})."
    # That it cannot start because it was taken back has a code of its own, which means no more.
    if failure.has("preempted") or (
        failure.has("unsupportedoperation") and "preempt" in words.casefold()
    ):
        return CapacityError(message, "It is tried elsewhere, or at the full price.")
    if failure.has(*SOLD_OUT):
        return CapacityError(message).pointing_to(failure.zones)
    if failure.has("quotaexceeded", "limitexceeded"):
        whole = "allregions" in _code(f"{failure.metric} {words}")
        return QuotaError(message, ASK_QUOTA).ruling_out(Scope.ACCOUNT if whole else Scope.REGION)
    if is_rate(failure):
        # A refusal to be called so often is waited for; an order that failed by it is another's.
        return RateLimited(message) if failure.status else CapacityError(message)
    return _refusal(failure, message)


def _refusal(failure: Failure, message: str) -> OrchestratorError:
    words = failure.words
    if failure.has(*DISABLED):
        service = failure.service or "compute.googleapis.com"
        return CredentialsError(message, f"Enable it: gcloud services enable {service}.")
    if "billing" in words.casefold() and failure.status == 403:
        return CredentialsError(message, "Link a billing account to the project.")
    if failure.status == 412 or failure.has("conditionnotmet") or "constraints/" in words:
        policy = re.search(r"constraints/[\w.-]+", words)
        return ConfigError(
            message,
            f"Allow it for this project in the organisation's policy "
            f"{policy[0] if policy else 'that it names'}, or set up another project.",
        )
    if failure.status == 401:
        return CredentialsError(message)
    if failure.status == 403 or failure.has("iampermissiondenied"):
        asked = re.search(r"compute\.\w+\.\w+", words)
        return CredentialsError(
            message,
            f"Grant {asked[0] if asked else 'it'}: docs/gcp.md has a role that suffices.",
        )
    # A type that a zone does not have: the table of what is for hire is older than the zone.
    if "does not exist in zone" in words:
        return CapacityError(message)
    if re.search(r"/images/|image family", words) and not failure.has("resourcenotready"):
        return ConfigError(message, "Set GCP_IMAGE (GCP_CPU_IMAGE) to an image family of today.")
    if re.search(r"/(sub)?networks?(works)?/", words):
        return ConfigError(message, "Set GCP_NETWORK, or GCP_SUBNETWORK, to one of the project.")
    return ProviderError(message)


def instance_of(row: Mapping[str, Any], zone: str, *, user: str, port: int) -> Instance:
    """Return a row of instances as an instance.

    Raises:
        LookupError, TypeError: it does not say which one it is.
    """
    id = f"{zone}/{_name(row)}"
    labels = row.get("labels")
    text = str(labels.get(LABEL) or "") if isinstance(labels, dict) else ""
    try:
        return _instance(row, id, zone, text, user=user, port=port)
    except (AttributeError, LookupError, TypeError, ValueError):
        return not_as_described("gcp", "Compute Engine", id=id, mark=text)


def _instance(
    row: Mapping[str, Any], id: str, zone: str, text: str, *, user: str, port: int
) -> Instance:
    word = str(row.get("status"))
    status = STATUSES.get(word, InstanceStatus.UNKNOWN)
    inside, outside = _addresses(row)
    if status is InstanceStatus.RUNNING and not (outside or inside):
        status = InstanceStatus.PROVISIONING
    scheduling = row.get("scheduling") or {}
    spot = scheduling.get("provisioningModel") == "SPOT" or scheduling.get("preemptible") is True
    name = _kind(row)
    kind = KINDS.get(name)
    region = region_of(zone)
    disk = sum(int(one.get("diskSizeGb") or 0) for one in _objects(row.get("disks")))
    return Instance(
        provider="gcp",
        id=id,
        mark=ours(text),
        status=status,
        detail=" ".join(part for part in (word, str(row.get("statusMessage") or "")) if part),
        address=_mailbox(row) or outside or inside,
        private_address=inside,
        port=port,
        user=user,
        instance_type=name,
        region=region,
        zone=zone,
        host=f"{name} in {zone}",
        spot=spot,
        price_per_hour=price_in(kind, region, spot=spot) if kind else None,
        gpu_type=kind.gpu if kind else None,
        gpu_count=kind.count if kind else 0,
        **extras_of(disk, spot=spot, public=bool(outside)),
    )


def _kind(row: Mapping[str, Any]) -> str:
    """Return our word for its kind: the machine type, with the GPUs that are attached to it."""
    machine = str(row.get("machineType") or "").rpartition("/")[2]
    found = [
        f"{machine}+{int(one['acceleratorCount'])}x{str(one['acceleratorType']).rpartition('/')[2]}"
        for one in _objects(row.get("guestAccelerators"))
    ]
    # Machines that always have GPUs may list them too.
    return next((name for name in found if name in KINDS), machine)


def _addresses(row: Mapping[str, Any]) -> tuple[str, str]:
    """Return the addresses within the network and from outside; empty where there is none."""
    faces = _objects(row.get("networkInterfaces"))
    public = [
        config.get("natIP") for face in faces for config in _objects(face.get("accessConfigs"))
    ]
    return (
        next((str(face["networkIP"]) for face in faces if face.get("networkIP")), ""),
        next((str(address) for address in public if address), ""),
    )


def _mailbox(row: Mapping[str, Any]) -> str:
    items = _objects((row.get("metadata") or {}).get("items"))
    return next((str(one.get("value") or "") for one in items if one.get("key") == MAILBOX), "")


def _name(row: Mapping[str, Any]) -> str:
    name = row["name"]
    if not isinstance(name, str) or not name:
        raise TypeError(f"the name {name!r} is not one")
    return name


def _objects(value: Any) -> list[dict[str, Any]]:
    """Return the objects of a list; nothing of what is no list."""
    return [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []


def _codes(said: list[Any]) -> tuple[str, ...]:
    return tuple(_code(word) for word in said if isinstance(word, str) and word)


def _code(word: str) -> str:
    return re.sub(r"[^a-z0-9]", "", word.lower())


def _facts(details: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what the details of an error hold: zones, metric, service."""
    found: dict[str, Any] = {}
    for detail in details:
        # Answers write metadata, operations metadatas.
        known = detail.get("metadatas") or detail.get("metadata")
        facts = {**detail, **(known if isinstance(known, dict) else {})}
        for name, value in _named(facts):
            found.setdefault(name, value)
    return found


def _named(facts: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    if zones := facts.get("zonesAvailable"):
        yield "zones", tuple(zone.strip() for zone in str(zones).split(",") if zone.strip())
    if metric := facts.get("limitName") or facts.get("metricName"):
        yield "metric", str(metric)
    if service := facts.get("service"):
        yield "service", str(service)
