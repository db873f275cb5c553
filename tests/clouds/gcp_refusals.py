"""What the local Google Cloud refuses, at once or later, and with which words."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tests.clouds.gcp_catalog import ZONES, is_spot, kind_of

if TYPE_CHECKING:
    from tests.clouds.gcp import GoogleCloud

PERMISSIONS: Sequence[tuple[str, str, tuple[str, ...]]] = (
    ("GET", "/projects/[^/]+", ("projects.get",)),
    ("GET", ".*/regions", ("regions.list",)),
    ("GET", ".*/aggregated/instances", ("instances.list",)),
    ("GET", ".*/aggregated/disks", ("disks.list",)),
    (
        "POST",
        ".*/instances",
        (
            *("instances.create", "instances.setLabels", "instances.setMetadata"),
            *("disks.create", "disks.setLabels", "subnetworks.use", "subnetworks.useExternalIp"),
        ),
    ),
    ("GET", ".*/instances/[^/]+", ("instances.get",)),
    ("DELETE", ".*/instances/[^/]+", ("instances.delete",)),
    ("POST", ".*/setLabels", ("instances.setLabels",)),
    ("GET", ".*/operations", ("zoneOperations.list",)),
    ("GET", ".*/operations/[^/]+", ("zoneOperations.get",)),
    ("DELETE", ".*/disks/[^/]+", ("disks.delete",)),
    ("POST", ".*/firewalls", ("firewalls.create", "networks.updatePolicy")),
    ("GET", ".*/networks/[^/]+", ("networks.get",)),
)
"""Which permissions each call needs, without the service's name; public images need none."""


class Refusals:
    """Everything that is said no to."""

    def __init__(self, cloud: GoogleCloud) -> None:
        self._cloud = cloud
        self.denied: set[str] = set()
        """Permissions that the account lacks, such as instances.create."""
        self.disabled = False
        """The API is not enabled in the project."""
        self.no_billing = False
        self.too_often = 0
        """How many of the next calls are refused with 403 for their rate."""
        self.policy = ""
        """A constraint of the organisation that no order keeps to."""
        self.absent: set[tuple[str, str]] = set()
        """(machine type, zone) that are not there."""
        self.families = {
            "common-cu129-ubuntu-2404-nvidia-580",
            "ubuntu-2404-lts-amd64",
        }
        self.networks = {"default"}

    async def gate(self, request: Request) -> Response | None:
        """Return a refusal of a call, or None."""
        cloud, path = self._cloud, request.url.path
        if cloud.rates.early("", 0.05) or self.too_often > 0:
            self.too_often -= 1
            return error(403, "rateLimitExceeded", "Rate Limit Exceeded")
        token = cloud.bearer(request).removeprefix("ya29.")
        own = [one for one in cloud.all if one.key == token and not one.gone]
        if (
            own
            and request.method == "DELETE"
            and path.endswith(f"/instances/{own[0].facts['name']}")
        ):
            return None
        if token != cloud.key or cloud.expired:
            words = "Request had invalid authentication credentials."
            return error(401, "authError", words, "UNAUTHENTICATED")
        return self._access(request) or await self._shape(request)

    def _access(self, request: Request) -> Response | None:
        cloud = self._cloud
        if self.disabled:
            words = f"Compute Engine API has not been used in project {cloud.project} before or it is disabled."
            detail = info("SERVICE_DISABLED", {"service": "compute.googleapis.com"}, "metadata")
            return error(403, "accessNotConfigured", words, "PERMISSION_DENIED", [detail])
        if self.no_billing or cloud.no_funds:
            words = f"This API method requires billing to be enabled on project {cloud.project}."
            return error(403, "forbidden", words, "PERMISSION_DENIED")
        path = request.url.path.removeprefix("/compute/v1")
        for method, pattern, names in PERMISSIONS:
            if method == request.method and re.fullmatch(pattern, path):
                cloud.used |= {f"compute.{name}" for name in names}
                for name in self.denied.intersection(names):
                    words = f"Required 'compute.{name}' permission for 'projects/{cloud.project}'"
                    detail = info("IAM_PERMISSION_DENIED", {"permission": name}, "metadata")
                    return error(403, "forbidden", words, "PERMISSION_DENIED", [detail])
        return None

    async def _shape(self, request: Request) -> Response | None:
        body = await request.body()
        wrong = self._cloud.contract.wrong(
            request.method,
            request.url.path,
            request.query_params,
            json.loads(body) if body else None,
        )
        if not wrong:
            return None
        self._cloud.errors.append(f"{request.method} {request.url.path}: {wrong[:3]}")
        return error(400, "badRequest", f"Invalid JSON payload received: {wrong[0]}")

    async def network(self, request: Request) -> Response:
        """Answer a look at a network."""
        name = request.path_params["name"]
        if name not in self.networks:
            return self._no_network(name)
        return JSONResponse({"kind": "compute#network", "name": name})

    async def image(self, request: Request) -> Response:
        """Answer a look at an image family."""
        name = request.path_params["name"]
        if name not in self.families:
            return self._no_image(request.path_params["project"], name)
        return JSONResponse({"kind": "compute#image", "name": f"{name}-v1", "family": name})

    def _no_network(self, name: str) -> Response:
        words = (
            f"The resource 'projects/{self._cloud.project}/global/networks/{name}' was not found"
        )
        return error(404, "notFound", words)

    def _no_image(self, project: str, name: str) -> Response:
        words = f"The resource 'projects/{project}/global/images/family/{name}' was not found"
        return error(404, "notFound", words)

    def order(self, zone: str, asked: Mapping[str, Any]) -> Response | None:
        """Return a refusal of an insert that is said at once."""
        machine = asked["machineType"].rpartition("/")[2]
        if zone not in {
            f"{name}-{letter}" for name, letters in ZONES.items() for letter in letters
        }:
            return error(400, "invalid", f"Invalid value for field 'zone': '{zone}'. Unknown zone.")
        if (machine, zone) in self.absent or kind_of(asked) is None:
            words = f"Machine type with name '{machine}' does not exist in zone '{zone}'."
            return error(400, "invalid", f"Invalid value for field 'resource.machineType': {words}")
        if self.policy:
            words = f"Constraint {self.policy} violated for project {self._cloud.project}."
            return error(412, "conditionNotMet", words)
        family = asked["disks"][0]["initializeParams"]["sourceImage"].split("/")
        if family[-1] not in self.families:
            return self._no_image(family[1], family[-1])
        network = asked["networkInterfaces"][0].get("network", "default").rpartition("/")[2]
        if network not in self.networks:
            return self._no_network(network)
        if wrong := _wrong_scheduling(asked):
            return error(400, "invalid", wrong)
        return None

    def later(self, zone: str, asked: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Return the error with which an insert fails that was accepted."""
        cloud, machine = self._cloud, asked["machineType"].rpartition("/")[2]
        if cloud.late:
            return cloud.late.pop(0)
        region = zone.rpartition("-")[0]
        if cloud.sold_out(machine, zone, region, f"{machine}@{zone}"):
            return sold_out(zone, machine, cloud.named_zones)
        row = kind_of(asked) or {}
        needs = {"": {"CPUS_ALL_REGIONS": row.get("vcpus", 0)}, region: {}}
        if row.get("count"):
            needs[""]["GPUS_ALL_REGIONS"] = row["count"]
            prefix = "PREEMPTIBLE_" if is_spot(asked) else ""
            needs[region][f"{prefix}{row.get('metric')}"] = row["count"]
        for place, metrics in needs.items():
            for metric, number in metrics.items():
                limit = cloud.quotas[place].get(metric)
                if limit is not None and self._usage(place, metric) + number > limit:
                    return quota_exceeded(metric, limit, place)
        return None

    def quotas(self, region: str) -> list[dict[str, Any]]:
        """Return the quotas of a region; of the project where it is empty."""
        return [
            {"metric": metric, "limit": limit, "usage": self._usage(region, metric)}
            for metric, limit in self._cloud.quotas[region].items()
            if metric not in self._cloud.unsaid
        ]

    def _usage(self, region: str, metric: str) -> float:
        used = 0.0
        for rented in self._cloud.all:
            row, spot = rented.facts["row"], is_spot(rented.facts["asked"])
            mine = not region or rented.facts["zone"].startswith(f"{region}-")
            own = f"PREEMPTIBLE_{row.get('metric')}" if spot else row.get("metric")
            if rented.ended is None and mine:
                counts = {"CPUS_ALL_REGIONS": row["vcpus"], "GPUS_ALL_REGIONS": row.get("count", 0)}
                used += {**counts, own: row.get("count", 0)}.get(metric, 0)
        return used


def _wrong_scheduling(asked: Mapping[str, Any]) -> str:
    scheduling = asked.get("scheduling", {})
    if is_spot(asked) and scheduling.get("automaticRestart", True):
        return "Scheduling must have automaticRestart false for SPOT."
    if is_spot(asked) and scheduling.get("onHostMaintenance", "TERMINATE") != "TERMINATE":
        return "Scheduling must have onHostMaintenance TERMINATE for SPOT."
    notice = scheduling.get("preemptionNoticeDuration", {}).get("seconds", "0")
    if notice not in {"0", "120"} or (notice != "0" and not is_spot(asked)):
        return "preemptionNoticeDuration must be 0 or 120 seconds, of a spot machine."
    if "maxRunDuration" in scheduling:
        if not 30 <= int(scheduling["maxRunDuration"]["seconds"]) <= 120 * 86400:
            return "maxRunDuration must be between 30 seconds and 120 days."
        if "instanceTerminationAction" not in scheduling:
            return "maxRunDuration needs instanceTerminationAction."
    return ""


def error(
    status: int, reason: str, message: str, word: str = "", details: Sequence[Any] = ()
) -> JSONResponse:
    """Return an error as the API has it."""
    errors = [{"message": message, "domain": "global", "reason": reason}]
    body = {"code": status, "message": message, "errors": errors}
    if word:
        body["status"] = word
    if details:
        body["details"] = list(details)
    return JSONResponse({"error": body}, status)


def info(reason: str, facts: Mapping[str, str], name: str) -> dict[str, Any]:
    """Return an ErrorInfo: answers and operations name its facts in different ways."""
    return {"reason": reason, "domain": "compute.googleapis.com", name: dict(facts)}


def sold_out(zone: str, machine: str, others: str = "") -> dict[str, Any]:
    """Return the error of a zone that has none."""
    words = f"The zone 'projects/local-project/zones/{zone}' does not have enough resources available to fulfill the request."
    facts = {"zone": zone, "vmType": machine, "attachment": "", "zonesAvailable": others}
    return {
        "code": "ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS",
        "message": words,
        "errorDetails": [{"errorInfo": info("resource_availability", facts, "metadatas")}],
    }


def quota_exceeded(metric: str, limit: float, region: str) -> dict[str, Any]:
    """Return the error of a quota that is used up."""
    where = f"in region {region}" if region else "globally"
    name = f"{metric.replace('_', '-')}-per-project{'-region' if region else ''}"
    detail = {"metricName": f"compute.googleapis.com/{metric.lower()}", "limitName": name}
    return {
        "code": "QUOTA_EXCEEDED",
        "message": f"Quota '{metric}' exceeded.  Limit: {limit} {where}.",
        "errorDetails": [{"quotaInfo": {**detail, "limit": limit}}],
    }
