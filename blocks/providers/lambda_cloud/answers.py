"""What the answers of Lambda Cloud mean, by its OpenAPI document 1.10.0."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from blocks.marks import ours
from blocks.models import Instance, InstanceStatus, Offer
from blocks.providers.api import Answer, Unanswered
from blocks.providers.cloud import not_as_described
from blocks.providers.gpu_names import matches
from trainer.config import Limits, Resources
from trainer.contract.errors import (
    CapacityError,
    ConnectionLost,
    CredentialsError,
    FundsError,
    OrchestratorError,
    ProviderError,
    QuotaError,
)

SET_KEY = "Set LAMBDA_API_KEY, or api_key of the block, to a key of cloud.lambda.ai/api-keys."

STATUSES = {
    "booting": InstanceStatus.PROVISIONING,
    "active": InstanceStatus.RUNNING,
    # Billed, and it may recover: not to be given up on the provider's word alone.
    "unhealthy": InstanceStatus.UNKNOWN,
    "terminating": InstanceStatus.STOPPING,
    "terminated": InstanceStatus.GONE,
    "preempted": InstanceStatus.LOST,
}
ABSENT = {"global/object-does-not-exist", "global/not-found"}
ERRORS: Mapping[str, tuple[type[ProviderError], str | None]] = {
    "global/invalid-api-key": (CredentialsError, SET_KEY),
    "global/forbidden": (CredentialsError, "Use a key of a member who may hire machines."),
    "global/account-inactive": (
        FundsError,
        "Verify the account's e-mail address and add a valid payment method.",
    ),
    "global/invalid-address": (FundsError, "Correct the account's billing address."),
    "global/quota-exceeded": (QuotaError, None),
    "instance-operations/launch/insufficient-capacity": (CapacityError, None),
}


def status_of(row: Mapping[str, Any]) -> InstanceStatus:
    """Return the status of a row of instances; one that runs has an address."""
    status = STATUSES.get(str(row.get("status")), InstanceStatus.UNKNOWN)
    # "active" may come before the address does, and without one there is nothing to connect to.
    if status is InstanceStatus.RUNNING and not row.get("ip"):
        return InstanceStatus.PROVISIONING
    return status


def offer_of(row: Mapping[str, Any]) -> Offer:
    """Return the type of a row of types or of instances as an offer without a region."""
    kind = row.get("instance_type") or {}
    specs = kind.get("specs") or {}
    gpus = int(_number(specs.get("gpus")) or 0)
    cents = _number(kind.get("price_cents_per_hour"))
    words = str(kind.get("gpu_description") or kind.get("name") or "")
    # There is no field for it: it stands in the description, as in "A100 (40 GB SXM4)".
    memory = re.search(r"(\d+) GB", words)
    return Offer(
        provider="lambda",
        instance_type=str(kind.get("name") or ""),
        region="",
        price_per_hour=cents / 100 if cents else None,
        gpu_type=words if gpus else None,
        gpu_count=gpus,
        vram_gb=float(memory[1]) if memory and gpus else 0.0,
        disk_gb=_number(specs.get("storage_gib")),
        ram_gb=_number(specs.get("memory_gib")),
    )


def _number(value: Any) -> float | None:
    """Return a number of an answer, which may be missing.

    Raises:
        TypeError: it is something else.
    """
    if value is None or (isinstance(value, (int, float)) and not isinstance(value, bool)):
        return value
    raise TypeError(f"{value!r} is not a number")


def is_type(row: Any) -> bool:
    """Whether a row of types can be read."""
    try:
        offer, _ = offer_of(row), regions_of(row)
    except (AttributeError, LookupError, TypeError, ValueError):
        return False
    return bool(offer.instance_type)


def keys_of(row: Mapping[str, Any]) -> list[str]:
    """Return the names of the SSH keys of a row of instances.

    Raises:
        TypeError: they are no list.
    """
    return [str(name) for name in [*(row.get("ssh_key_names") or ())]]


def regions_of(row: Mapping[str, Any]) -> list[str]:
    """Return the regions where a type is to be had, of a row of types."""
    regions = row.get("regions_with_capacity_available") or ()
    return [str(region["name"]) for region in regions if region.get("name")]


def instance_of(row: Mapping[str, Any], *, user: str, port: int) -> Instance:
    """Return a row of instances as an instance."""
    try:
        return _instance(row, user=user, port=port)
    except (AttributeError, TypeError, ValueError):
        return not_as_described(
            "lambda", "Lambda Cloud", id=str(row["id"]), mark=str(row.get("name") or "")
        )


def _instance(row: Mapping[str, Any], *, user: str, port: int) -> Instance:
    offer = offer_of(row)
    region = str((row.get("region") or {}).get("name") or "")
    return Instance(
        provider=offer.provider,
        id=str(row["id"]),
        mark=ours(str(row.get("name") or "")),
        status=status_of(row),
        detail=str(row.get("status") or ""),
        address=str(row.get("ip") or ""),
        private_address=str(row.get("private_ip") or ""),
        port=port,
        user=user,
        instance_type=offer.instance_type,
        region=region,
        host=f"{offer.instance_type} in {region}",
        price_per_hour=offer.price_per_hour,
        gpu_type=offer.gpu_type,
        gpu_count=offer.gpu_count,
    )


def fits(offer: Offer, resources: Resources, limits: Limits) -> bool:
    """Whether a type is what is asked for, sold out or not."""
    gpus = 1 if resources.gpu_count is None else resources.gpu_count
    return (
        offer.gpu_count == gpus
        and offer.price_per_hour is not None  # what has no price is not for sale
        and offer.rank_price <= (limits.max_price_per_hour or offer.rank_price)
        and (
            not gpus
            or not resources.gpu_types
            or matches(resources.gpu_types, offer.gpu_type or "")
        )
        and (not gpus or offer.vram_gb >= (resources.min_vram_gb or 0))
        and (offer.disk_gb or 0) >= (resources.disk_gb or 0)
        and (offer.ram_gb or 0) >= (resources.min_ram_gb or 0)
    )


def code_of(answer: Answer) -> str:
    """Return `error.code`; empty if the answer is not an error of the API."""
    match answer.data:
        case {"error": {"code": str(code)}} if not answer.ok:
            return code
    return ""


def error_of(answer: Answer, secret: str) -> OrchestratorError:
    """Return what a failure means, by its code and never by its words."""
    code = code_of(answer)
    words = str(answer.data["error"].get("message")) if code else f"HTTP {answer.status}"
    # The key is masked, in case the API quotes what it was sent.
    message = (
        f"Lambda Cloud says: {words.replace(secret, '***').rstrip('.')} ({code or 'no code'})."
    )
    if code in ERRORS:
        kind, suggestion = ERRORS[code]
        return kind(message, suggestion)
    if answer.status == 401:
        return CredentialsError(message, SET_KEY)
    if (
        answer.ok
        # A success that holds nothing, a timeout or an error inside: what was asked may have been
        # done.
        or answer.status == 408
        or code.startswith("provider/")
        or code == "global/internal-error"
    ):
        return Unanswered(message)
    if not code:  # said by a proxy in front of the API, such as Cloudflare
        return ConnectionLost(message)
    return ProviderError(message)
