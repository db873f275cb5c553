"""What the answers of Vast.ai mean: as the service gives them, not as its OpenAPI document says."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from blocks.marks import ours
from blocks.models import Instance, InstanceStatus, Offer
from blocks.providers.api import Answer, Api, Unanswered
from blocks.providers.cloud import not_as_described
from trainer.contract.errors import (
    CapacityError,
    ConnectionLost,
    CredentialsError,
    FundsError,
    OrchestratorError,
    ProviderError,
    QuotaError,
    RateLimited,
)

SET_KEY = "Set VAST_API_KEY, or api_key of the block, to a key of cloud.vast.ai/manage-keys."
GPUS_VARIABLE = "TRAINING_ORCHESTRATOR_GPUS"
"""Of an instance's own environment: how many GPUs the job that hired it may use."""
HOURS_PER_MONTH = 730.0  # 365 * 24 / 12; storage is priced by the month
GB_PER_GIB = 1.0737  # 2 ** 30 / 10 ** 9
DISK_GIB = 60.0  # that are hired when a job does not say

ABSENT = {"no_such_instance", "not_found"}
ERRORS: Mapping[str, tuple[type[ProviderError], str | None]] = {
    "auth_error": (CredentialsError, SET_KEY),
    "insufficient_credit": (FundsError, "Add credit to the account at cloud.vast.ai/billing."),
    "no_such_ask": (CapacityError, None),
    "rate_limit_exceeded": (RateLimited, None),
    "search_quota_exceeded": (
        QuotaError,
        "The day's searches are used up until 00:00 UTC; allow other providers.",
    ),
}
STARTING = {"None", "created", "loading", "rebooting", "recycling"}
BROKEN = "OCI runtime create failed:"  # in status_msg; such a container never starts


class VastApi(Api):
    """The API, which says in words how long to wait, and when waiting is useless."""

    def pause_after_429(self, answer: Answer, bucket: str) -> float:
        """Return the seconds to wait after a 429.

        Raises:
            QuotaError: the searches of the day are used up.
        """
        code, words = complaint(answer)
        if code == "search_quota_exceeded":
            raise error_of(answer)
        # Most 429s have no Retry-After; the seconds stand in their text.
        threshold = re.search(r"threshold=([0-9.]*[0-9])", words)
        if threshold is None:
            return super().pause_after_429(answer, bucket)
        asked = super().pause_after_429(answer, bucket) if "Retry-After" in answer.headers else 0.0
        return max(asked, float(threshold[1]))


def complaint(answer: Answer) -> tuple[str, str]:
    """Return the code of a failure and its words; no code where there is none.

    A failure may come as HTTP 200, its words under several names or as plain text.
    """
    data = answer.data
    if not isinstance(data, Mapping):
        text = str(data or "").strip()
        return "", "" if "<" in text else text[:200]
    if answer.ok and data.get("success") is not False:
        return "", ""
    code = str(data.get("error") or "")
    words = data.get("msg") or data.get("message") or data.get("detail") or code
    return code, str(words)


def error_of(answer: Answer, secret: str = "") -> OrchestratorError:
    """Return what a failure means; `secret` is kept out of the message."""
    code, words = complaint(answer)
    words = (words.replace(secret, "***") if secret else words).rstrip(".")
    message = f"Vast.ai says: {words or 'nothing'} ({code or f'HTTP {answer.status}'})."
    if code in ERRORS:
        kind, suggestion = ERRORS[code]
        return kind(message, suggestion)
    if answer.status == 401:
        return CredentialsError(message, SET_KEY)
    if answer.status == 403 and code == "invalid_args":  # an offer for its own host
        return CapacityError(message)
    if not isinstance(answer.data, Mapping) or (answer.ok and answer.data.get("success")):
        if answer.ok or answer.status == 408:
            return Unanswered(
                f"Vast.ai's answer does not say what was done (HTTP {answer.status})."
            )
        if answer.status == 403:  # said by a proxy in front of the API, such as Cloudflare
            return ConnectionLost(message)
    return ProviderError(message)


def offer_of(row: Mapping[str, Any], *, disk_gb: float | None, gpu_count: int, spot: bool) -> Offer:
    """Return a row of a search; of one that may be taken back, at the lowest bid."""
    gpus = f"{row.get('num_gpus')}x {row.get('gpu_name')}"
    price = number(row.get("min_bid")) + storage_price(row, disk_gb)
    return Offer(
        provider="vast",
        id=str(row.get("ask_contract_id") or row.get("id") or ""),
        instance_type=gpus,
        region=str(row.get("geolocation") or ""),
        host=f"machine {row.get('machine_id')}",
        price_per_hour=price if spot else number(row.get("dph_total")),
        traffic_price=number(row.get("inet_up_cost")),
        spot=spot,
        gpu_type=str(row.get("gpu_name")) if gpu_count else None,
        gpu_count=gpu_count,
        vram_gb=number(row.get("gpu_ram")) / 1024 if gpu_count else 0.0,
        disk_gb=disk_gb or DISK_GIB,
        ram_gb=number(row.get("cpu_ram")) / 1024 or None,
    )


def storage_price(row: Mapping[str, Any], disk_gb: float | None) -> float:
    """Return USD per hour for a disk at an offer; it is billed from create to destroy."""
    given = row.get("storage_total_cost")
    if given is not None:
        return number(given)
    return number(row.get("storage_cost")) * hired_gb(disk_gb) / HOURS_PER_MONTH


def hired_gb(gib: float | None) -> int:
    """Return the GB to hire for a disk in GiB; None: for a job that does not say."""
    # Rounded up to whole GB, as the API takes them.
    return max(8, math.ceil((gib or DISK_GIB) * GB_PER_GIB))


def instance_of(row: Mapping[str, Any], user: str) -> Instance:
    """Return a row of instances as an instance."""
    try:
        return _instance(row, user)
    except (AttributeError, TypeError, ValueError):
        return not_as_described(
            "vast", "Vast.ai", id=str(row["id"]), mark=str(row.get("label") or "")
        )


def _instance(row: Mapping[str, Any], user: str) -> Instance:
    gpus = int(number(row.get("num_gpus")))
    # Hired as a CPU: the job must not use its GPUs.
    if _environment(row).get(GPUS_VARIABLE) == "0":
        gpus = 0
    status, detail = status_of(row)
    address, port = address_of(row)
    return Instance(
        provider="vast",
        id=str(row["id"]),
        mark=ours(str(row.get("label") or "")),
        status=status,
        detail=detail,
        address=address,
        port=port,
        user=user,
        instance_type=f"{row.get('num_gpus')}x {row.get('gpu_name')}",
        region=str(row.get("geolocation") or ""),
        host=f"machine {row.get('machine_id')}",
        spot=bool(row.get("is_bid")),
        price_per_hour=number(row.get("dph_total")) or None,
        traffic_price=number(row.get("inet_up_cost")),
        gpu_type=str(row.get("gpu_name")) if gpus else None,
        gpu_count=gpus,
    )


def status_of(row: Mapping[str, Any]) -> tuple[InstanceStatus, str]:
    """Return the status that four words and a message make, and the reason in Vast's words."""
    actual, intended = str(row.get("actual_status")), row.get("intended_status")
    says = " ".join(str(row.get("status_msg") or "").split())[:200]
    detail = f"{actual}: {says}" if says else actual
    # The message may be of an earlier try: a container that runs is not broken.
    if BROKEN in says and actual != "running":
        return InstanceStatus.LOST, detail
    # Nothing here ever stops an instance, so Vast.ai did, or the user in the console.
    if intended == "stopped":
        stopped = row.get("cur_state") == "stopped" and row.get("next_state") in {"stopped", None}
        if actual == "running" or not stopped:
            return InstanceStatus.STOPPING, detail
        return InstanceStatus.LOST, f"stopped by Vast.ai: outbid, or out of credit ({detail})"
    if row.get("cur_state") == "stopped" and intended == "running":
        return InstanceStatus.PROVISIONING, f"queued for its GPUs ({detail})"
    if actual == "running" and address_of(row)[0]:
        return InstanceStatus.RUNNING, detail
    if actual in STARTING or actual == "running":
        return InstanceStatus.PROVISIONING, detail
    return InstanceStatus.UNKNOWN, detail


def has_exited(row: Mapping[str, Any]) -> bool:
    """Whether the container of an instance that shall run has ended."""
    return row.get("actual_status") == "exited" and row.get("intended_status") == "running"


def address_of(row: Mapping[str, Any]) -> tuple[str, int]:
    """Return where sshd is reached: directly where a port is mapped, else through the proxy."""
    match row.get("ports"):
        case {"22/tcp": [{"HostPort": mapped}, *_]} if row.get("public_ipaddr"):
            return str(row["public_ipaddr"]).strip(), int(mapped)
        case _:  # not mapped yet, or never
            pass
    if row.get("ssh_host") and row.get("ssh_port"):
        return str(row["ssh_host"]).strip(), int(row["ssh_port"])
    return "", 22


def number(value: Any) -> float:
    """Return a number of an answer; 0 if there is none."""
    return float(value) if isinstance(value, (int, float)) else 0.0


def _environment(row: Mapping[str, Any]) -> dict[str, str]:
    """Return what an instance was given as variables: pairs, a mapping or nothing."""
    with suppress(TypeError, ValueError):
        return {str(name): str(value) for name, value in dict(row.get("extra_env") or {}).items()}
    return {}
