"""What the answers of RunPod mean, by its REST API v2."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from blocks.marks import ours
from blocks.models import Instance, InstanceStatus, Offer
from blocks.providers.api import Answer, Api
from blocks.providers.cloud import not_as_described, rows_in
from trainer.contract.errors import (
    CapacityError,
    ConfigError,
    CredentialsError,
    FundsError,
    OrchestratorError,
    ProviderError,
)

SET_KEY = (
    "Set RUNPOD_API_KEY, or api_key of the block, to a key with read and write access: "
    "console.runpod.io/user/settings makes one."
)
HOST_VARIABLE = "TRAINING_ORCHESTRATOR_HOST"
"""A variable of a pod that says what to avoid if it fails; the API returns it with the pod."""
STATUSES = {
    "PROVISIONING": InstanceStatus.PROVISIONING,
    "STARTING": InstanceStatus.PROVISIONING,
    "RUNNING": InstanceStatus.RUNNING,
    "EXITED": InstanceStatus.LOST,
    "ERROR": InstanceStatus.LOST,
    "TERMINATED": InstanceStatus.GONE,
}
DETAILS = {
    "EXITED": "EXITED: stopped by the platform; the pod's system log says why",
    "ERROR": "ERROR: beyond repair; the pod's system log says why",
}
_WINDOW = re.compile(r'"(?P<name>[^"]*)"\s*;\s*r=(?P<left>\d+)\s*;\s*t=(?P<seconds>\d+)')


class RunPodApi(Api):
    """The API, whose answers count the calls left in windows of a minute, an hour and a day."""

    def observe(self, answer: Answer) -> None:
        """Hold all calls until the windows that are used up begin anew."""
        if seconds := _used_up(answer):
            self.pace.hold(seconds)

    def pause_after_429(self, answer: Answer, bucket: str) -> float:
        """Return the seconds until all windows have calls left; Retry-After covers only one."""
        return max(_used_up(answer), super().pause_after_429(answer, bucket))


class _Answer(BaseModel):
    """A part of an answer: what is not known is passed over, anything may be missing or null."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Place(_Answer):
    """A data centre, and how much it has of something."""

    id: str | None = None
    availability: str | None = None


class GpuPrice(_Answer):
    """USD per hour for one GPU."""

    secure: float | None = None
    community: float | None = None


class GpuCounts(_Answer):
    """How many GPUs a pod may have."""

    secure: int | None = None
    community: int | None = None


class GpuType(_Answer):
    """A row of the catalogue of GPUs; `memory` is that of one GPU in GB."""

    id: str | None = None
    name: str | None = None
    manufacturer: str | None = None
    memory: float | None = None
    secure: bool | None = None
    community: bool | None = None
    price: GpuPrice | None = None
    maxCount: GpuCounts | None = None
    availability: str | None = None
    dataCenters: list[Place] | None = None


class CpuPrice(_Answer):
    """USD per hour for one vCPU."""

    securePerVcpu: float | None = None


class CpuCounts(_Answer):
    """How many vCPUs a pod may have."""

    min: int | None = None
    max: int | None = None


class CpuType(_Answer):
    """A row of the catalogue of CPU flavours."""

    id: str | None = None
    name: str | None = None
    vcpu: CpuCounts | None = None
    ramGbPerVcpu: float | None = None
    price: CpuPrice | None = None
    availability: str | None = None
    dataCenters: list[Place] | None = None


class _Endpoint(_Answer):
    host: str | None = None
    port: int | None = None
    username: str | None = None


class _Ssh(_Answer):
    direct: _Endpoint | None = None


class _PodGpu(_Answer):
    id: str | None = None
    count: int | None = None


class _PodCpu(_Answer):
    id: str | None = None
    vcpuCount: int | None = None


class _Pod(_Answer):
    id: str = Field(min_length=1)
    name: str | None = None
    status: str | None = None
    gpu: _PodGpu | None = None
    cpu: _PodCpu | None = None
    cloud: str | None = None
    dataCenterId: str | None = None
    ssh: _Ssh | None = None
    cost: float | None = None
    env: dict[str, Any] | None = None


def instance_of(row: Mapping[str, Any]) -> Instance | None:
    """Return a pod as an instance; None for what has no id."""
    try:
        return _instance(_Pod.model_validate(row))
    except ValidationError:
        id, name = row.get("id"), row.get("name")
    if not isinstance(id, str) or not id:
        return None
    return not_as_described("runpod", "RunPod", id=id, mark=name if isinstance(name, str) else "")


def _instance(pod: _Pod) -> Instance:
    word = pod.status or ""
    status = STATUSES.get(word, InstanceStatus.UNKNOWN)
    detail = DETAILS.get(word, word)
    direct = (pod.ssh and pod.ssh.direct) or _Endpoint()
    # The pod runs before its port is mapped; until then there is nothing to connect to.
    if status is InstanceStatus.RUNNING and not (direct.host and direct.port):
        status, detail = InstanceStatus.PROVISIONING, f"{word}, without an address for SSH yet"
    kind = (pod.gpu and pod.gpu.id) or (pod.cpu and f"{pod.cpu.id}-{pod.cpu.vcpuCount}") or ""
    region = pod.dataCenterId or pod.cloud or ""
    return Instance(
        provider="runpod",
        id=pod.id,
        mark=ours(pod.name or ""),
        status=status,
        detail=detail,
        address=direct.host or "",
        port=direct.port or 22,
        user=direct.username or "root",
        instance_type=kind,
        region=region,
        host=str((pod.env or {}).get(HOST_VARIABLE) or f"{kind}@{region}"),
        price_per_hour=pod.cost or None,
        gpu_type=pod.gpu.id if pod.gpu else None,
        gpu_count=(pod.gpu.count or 1) if pod.gpu else 0,
    )


def rows_of(answer: Answer, name: str) -> list[dict[str, Any]]:
    """Return the rows of a list.

    Raises:
        ProviderError: the answer has none.
    """
    rows = answer.data.get(name) if isinstance(answer.data, dict) else None
    return rows_in("RunPod", f"a question for {name}", rows)


def is_absent(answer: Answer) -> bool:
    """Whether RunPod says that there is no such pod; a 404 for a wrong path reads differently."""
    return (
        answer.status == 404
        and re.search(r"\b(pod|resource) not found", _words(answer)) is not None
    )


def refused(answer: Answer, offer: Offer | None = None) -> OrchestratorError:
    """Return what a refusal means.

    Args:
        answer: with a status of 400 or more.
        offer: what was ordered, if anything was.
    """
    words = _words(answer)
    message = f"RunPod says: {words.rstrip('.')} (HTTP {answer.status})."
    if answer.status == 401:
        return CredentialsError(f"RunPod does not accept the key: {words.rstrip('.')}.", SET_KEY)
    if answer.status == 402:
        return FundsError(message, "Add funds: console.runpod.io/user/billing.")
    # With an order, a 403 as JSON may be about the offer, such as a GPU this account may not hire.
    if answer.status == 403 and (offer is None or not isinstance(answer.data, dict)):
        return CredentialsError(f"RunPod does not let this key in: {words.rstrip('.')}.", SET_KEY)
    if offer is None:
        return ProviderError(message)
    # 400 has no code: it is what a lack of capacity looks like, or a request that never fits.
    # Either way the next offer may do.
    if answer.status in {400, 403}:
        return CapacityError(f"No {offer.instance_type} in {offer.region}: {message}")
    if answer.status in {404, 413, 422}:
        return ConfigError(message, "Correct image or other settings of the RunPod block.")
    return ProviderError(message)


def _words(answer: Answer) -> str:
    """Return what a problem document says, or what else was sent, shortened."""
    match answer.data:
        case {"detail": str(detail), "errors": [*errors]}:
            return f"{detail} {'; '.join(map(str, errors))}"[:500]
        case {"detail": str(detail)}:
            return detail[:500]
        # HTML is a page of some proxy, and says nothing that a person could use.
        case str(text) if "<" not in text:
            return text.strip()[:200]
    return "something that is not an answer of its API"


def _used_up(answer: Answer) -> float:
    """Return the seconds until every window has calls left; 0 when all have."""
    # As in `"minute";r=0;t=17`: the window, the calls left in it, the seconds until it begins
    # anew.
    windows = _WINDOW.finditer(answer.headers.get("RateLimit", ""))
    return max((float(w["seconds"]) for w in windows if w["left"] == "0"), default=0.0)
