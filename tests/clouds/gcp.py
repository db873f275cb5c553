"""Compute Engine's REST API, as its discovery document and its users describe it."""

from __future__ import annotations

import asyncio
import getpass
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.clouds.cloud import Cloud, Rented, free_port
from tests.clouds.discovery import Discovered
from tests.clouds.gcp_catalog import SMI, ZONES, is_spot, kind_of, price_of, quotas
from tests.clouds.gcp_identity import Identity
from tests.clouds.gcp_life import lived, stop_script
from tests.clouds.gcp_operations import Operation, Operations
from tests.clouds.gcp_refusals import Refusals, error
from tests.clouds.gcp_shapes import disk_json, fingerprint, instance_json, page_of
from tests.clouds.machines import Profile
from tests.clouds.spacing import Spacing

API = "/compute/v1"
PROJECT = f"{API}/projects/{{project}}"
ONE = f"{PROJECT}/zones/{{zone}}/instances/{{name}}"


class GoogleCloud(Cloud):
    """A project at Google Cloud. Its machines have an address each and one port in common."""

    name = "gcp"
    key_variable = "GOOGLE_APPLICATION_CREDENTIALS"
    url_variable = "GCP_API_URL"
    api_path = API
    states = (("PROVISIONING", 0.3), ("STAGING", 0.7), ("RUNNING", 0.0))
    lost_word = "TERMINATED"

    def __init__(self, folder: Path, port: int = 0) -> None:
        self.identity = Identity(self)
        self.refusals = Refusals(self)
        super().__init__(folder, port)
        self.contract: Any = Discovered("compute.v1.json", f"{API}/")
        self.project = "local-project"
        self.operations = Operations(self._keep)
        self.ssh_port = free_port()
        """Where all sshds listen; at Google it is 22."""
        self.rates = Spacing()
        self.rates.factor = 0.0  # quotas are of a minute: bursts are fine
        self.quotas = quotas()
        self.unsaid: set[str] = set()
        """Metrics that are enforced and that no answer has."""
        self.operation_seconds = 0.1
        """How long an insert takes until it is done, or fails."""
        self.delete_seconds = 0.2
        self.label_seconds = 0.05
        self.late: list[Mapping[str, Any]] = []
        """Errors with which the next inserts fail, after they were accepted."""
        self.leaves = False
        """Inserts that fail leave a stopped machine with its disk."""
        self.named_zones = ""
        """Zones that the error of a sold-out zone names."""
        self.unreachable: set[str] = set()
        """Zones that a list cannot look into."""
        self.page = 500
        """The most rows of one page, whatever is asked for."""
        self.os_login = False
        """Whether the project has OS Login: keys of metadata count only where a machine says so."""
        self.run_factor = 1.0
        """Seconds per second of maxRunDuration."""
        self.disks: dict[str, dict[str, Any]] = {}
        """Disks that no machine has, by zone/name."""
        self.firewalls: dict[str, Any] = {}
        self.used: set[str] = set()
        """The permissions that were needed so far."""

    def routes(self) -> list[Route]:
        post, delete = ["POST"], ["DELETE"]
        zone = f"{PROJECT}/zones/{{zone}}"
        return [
            *self.identity.routes(),
            Route(PROJECT, self._project_of),
            Route(f"{PROJECT}/regions", self._regions),
            Route(f"{PROJECT}/aggregated/instances", self._list),
            Route(f"{PROJECT}/aggregated/disks", self._list_disks),
            Route(f"{zone}/instances", self._insert, methods=post),
            Route(ONE, self._get),
            Route(ONE, self._delete, methods=delete),
            Route(f"{ONE}/setLabels", self._set_labels, methods=post),
            Route(f"{ONE}/setScheduling", self._set_scheduling, methods=post),
            Route(f"{zone}/operations", self._list_operations),
            Route(f"{zone}/operations/{{name}}", self._operation),
            Route(f"{zone}/disks/{{name}}", self._delete_disk, methods=delete),
            Route(f"{PROJECT}/global/firewalls", self._add_firewall, methods=post),
            Route(f"{PROJECT}/global/networks/{{name}}", self.refusals.network),
            Route(f"{PROJECT}/global/images/family/{{name}}", self.refusals.image),
        ]

    async def gate(self, request: Request) -> Response | None:
        if not request.url.path.startswith(API):
            return None
        return await self.refusals.gate(request)

    def start(self) -> None:
        super().start()
        self.identity.write_key(self.key_file, f"{self._base}/token", self.project)

    def environ(self) -> dict[str, str]:
        """Return the variables that point the product here."""
        return {
            "GCP_PROVIDER": "1",
            self.url_variable: self.url,
            self.key_variable: str(self.key_file),
            "GOOGLE_CLOUD_PROJECT": self.project,
            "GCP_REGIONS": "us-central1,europe-west4",
            "GCP_SSH_PORT": str(self.ssh_port),
            "GCP_SSH_USER": getpass.getuser(),
        }

    def environment(self, rented: Rented) -> Mapping[str, str]:
        host = self._base.removeprefix("http://")
        return {"GCE_METADATA_HOST": f"{host}/vm/{rented.id}", "GCP_API_URL": self.url}

    def alive(self) -> list[str]:
        """Return what costs money: machines, stopped ones for their disks, and disks alone."""
        return [*(rented.id for rented in self.all if not rented.gone), *self.disks]

    @property
    def project_url(self) -> str:
        """The project's URL, as answers have it."""
        return f"https://www.googleapis.com{API}/projects/{self.project}"

    # What a test does.

    def notice(self, id: str) -> None:
        """Announce on a spot machine that it is taken back."""
        self.account[id].facts["notice"] = True

    def preempt(self, id: str) -> None:
        """Take a spot machine back, with its disk where the order says so; another's host fails."""
        rented = self.account[id]
        scheduling = rented.facts["asked"].get("scheduling", {})
        spot = is_spot(rented.facts["asked"])
        kind = "compute.instances.preempted" if spot else "compute.instances.hostError"
        self.operations.note(self._about(rented, kind))
        self._end(rented)
        rented.status = self.lost_word
        rented.gone = spot and scheduling.get("instanceTerminationAction") == "DELETE"

    async def power_off(self, rented: Rented) -> None:
        """The machine is off, and its disk is billed on: the time it may run is forgotten."""
        self.operations.note(self._about(rented, "compute.instances.guestTerminate"))
        await self.end(rented, self.lost_word)

    # Routes.

    async def _project_of(self, request: Request) -> Response:
        items = [{"key": "enable-oslogin", "value": "TRUE"}] if self.os_login else []
        return JSONResponse(
            {
                "kind": "compute#project",
                "name": self.project,
                "commonInstanceMetadata": {"items": items},
                "quotas": self.refusals.quotas(""),
            }
        )

    async def _regions(self, request: Request) -> Response:
        rows = [{"name": name, "quotas": self.refusals.quotas(name)} for name in ZONES]
        return JSONResponse({"kind": "compute#regionList", "items": rows})

    async def _list(self, request: Request) -> Response:
        rows = [(r.facts["zone"], instance_json(self, r)) for r in self.listed()]
        return page_of(self, request, "instances", rows)

    async def _list_disks(self, request: Request) -> Response:
        rows = [(id.partition("/")[0], disk) for id, disk in self.disks.items()]
        return page_of(self, request, "disks", rows)

    async def _insert(self, request: Request) -> Response:
        zone, asked = request.path_params["zone"], await request.json()
        request_id = request.query_params.get("requestId", "")
        if known := self.operations.repeated(request_id):
            return JSONResponse(known.json())
        id = f"{zone}/{asked['name']}"
        if id in self.account and not self.account[id].gone:
            words = f"The resource 'projects/{self.project}/{id}' already exists"
            return error(409, "alreadyExists", words)
        if refusal := self.refusals.order(zone, asked):
            return refusal
        failure = self.refusals.later(zone, asked)
        rented = self._ordered(zone, asked)
        self.account[rented.id] = rented
        operation = Operation(
            "insert", zone, f"instances/{asked['name']}", request_id, self.project_url
        )
        if failure is None:
            self.rent(rented)
            self._keep(asyncio.get_running_loop().create_task(lived(self, rented)))
        else:
            # It is seen in the account, and comes to nothing.
            rented.status, rented.ended = "PROVISIONING", rented.created

        async def work() -> Mapping[str, Any] | None:
            if failure is not None:
                rented.status, rented.gone = self.lost_word, not self.leaves
            return failure

        return JSONResponse(self.operations.begin(operation, self.operation_seconds, work).json())

    def _ordered(self, zone: str, asked: Mapping[str, Any]) -> Rented:
        row = kind_of(asked)
        assert row is not None
        numbers = [str(1 + secrets.randbelow(250)) for _ in range(3)]
        smi = SMI[row["gpu"]] if row.get("gpu") else ""
        region = zone.rpartition("-")[0]
        return Rented(
            id=f"{zone}/{asked['name']}",
            name=asked.get("labels", {}).get("to-name", ""),
            offer=row["machine"],
            price_per_hour=price_of(row, region, spot=is_spot(asked)),
            status="",
            public_keys=self._keys(asked),
            profile=Profile(gpus=(smi,) * row.get("count", 0)),
            facts={"asked": asked, "zone": zone, "name": asked["name"], "row": row},
            address=f"127.{'.'.join(numbers)}",
            port=self.ssh_port,
        )

    def _keys(self, asked: Mapping[str, Any]) -> list[str]:
        """Return the keys that let in: those of metadata, unless OS Login swallows them."""
        items = {one["key"]: one["value"] for one in asked.get("metadata", {}).get("items", [])}
        if items.get("enable-oslogin", str(self.os_login)).upper() == "TRUE":
            return []
        lines = items.get("ssh-keys", "").splitlines()
        return [key for user, _, key in (line.partition(":") for line in lines) if user]

    def _end(self, rented: Rented) -> None:
        super()._end(rented)
        stop_script(rented)

    async def _get(self, request: Request) -> Response:
        rented = self._known(request)
        return JSONResponse(instance_json(self, rented)) if rented else _absent(request)

    async def _delete(self, request: Request) -> Response:
        request_id = request.query_params.get("requestId", "")
        if known := self.operations.repeated(request_id):
            return JSONResponse(known.json())
        rented = self._known(request)
        if rented is None:
            return _absent(request)
        if self.refuses():
            return error(400, "resourceNotReady", f"The resource '{rented.id}' is not ready")
        ignored = self.ignores()
        if not ignored:
            rented.status = "STOPPING"

        async def work() -> None:
            if ignored:
                operation.kind = "nothing"
                return
            await self.end(rented, gone=True)
            for disk in rented.facts["asked"]["disks"]:
                if not disk.get("autoDelete"):  # left behind, as an insert's default is
                    self.leave_disk(rented.id, rented.name)

        operation = self._about(rented, "delete", request_id)
        return JSONResponse(self.operations.begin(operation, self.delete_seconds, work).json())

    def leave_disk(self, id: str, mark: str, age: float = 0.0) -> None:
        """Have a disk that no machine has."""
        self.disks[id] = disk_json(self, id, mark, time.time() - age)

    async def _set_labels(self, request: Request) -> Response:
        rented = self._known(request)
        if rented is None:
            return _absent(request)
        asked = await request.json()
        if asked.get("labelFingerprint") != fingerprint(rented):
            words = "Labels fingerprint either invalid or resource labels have changed"
            return error(412, "conditionNotMet", words)
        rented.name = asked.get("labels", {}).get("to-name", "")

        async def work() -> None:
            return None

        operation = self._about(rented, "setLabels")
        return JSONResponse(self.operations.begin(operation, self.label_seconds, work).json())

    async def _set_scheduling(self, request: Request) -> Response:
        rented = self._known(request)
        if rented is None:
            return _absent(request)
        if rented.status != self.lost_word:
            return error(
                400, "resourceNotReady", "Scheduling can be set on a stopped instance only"
            )
        rented.facts["asked"] = {**rented.facts["asked"], "scheduling": await request.json()}
        operation = self._about(rented, "setScheduling")
        self.operations.note(operation)
        return JSONResponse(operation.json())

    async def _list_operations(self, request: Request) -> Response:
        query = request.query_params.get("filter", "")
        found = self.operations.matching(request.path_params["zone"], query)
        rows = {"items": [one.json() for one in found]} if found else {}
        return JSONResponse({"kind": "compute#operationList", **rows})

    async def _operation(self, request: Request) -> Response:
        name = request.path_params["name"]
        found = next((one for one in self.operations.all if one.name == name), None)
        return JSONResponse(found.json()) if found else _absent(request)

    async def _delete_disk(self, request: Request) -> Response:
        id = f"{request.path_params['zone']}/{request.path_params['name']}"
        if self.disks.pop(id, None) is None:
            return _absent(request)
        operation = Operation("delete", id.partition("/")[0], f"disks/{id}", "", self.project_url)
        self.operations.note(operation)
        return JSONResponse(operation.json())

    async def _add_firewall(self, request: Request) -> Response:
        asked = await request.json()
        if asked["name"] in self.firewalls:
            return error(409, "alreadyExists", f"The resource '{asked['name']}' already exists")
        self.firewalls[asked["name"]] = asked
        operation = Operation("insert", "", f"firewalls/{asked['name']}", "", self.project_url)
        self.operations.note(operation)
        return JSONResponse(operation.json())

    # What routes are made of.

    @property
    def _base(self) -> str:
        return self.url.removesuffix(API)

    @property
    def key_file(self) -> Path:
        """The key of the service account."""
        return self.folder / "service-account.json"

    def _known(self, request: Request) -> Rented | None:
        return self.known(f"{request.path_params['zone']}/{request.path_params['name']}")

    def _about(self, rented: Rented, kind: str, request_id: str = "") -> Operation:
        zone, _, name = rented.id.partition("/")
        return Operation(kind, zone, f"instances/{name}", request_id, self.project_url)

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._boots.add(task)
        task.add_done_callback(self._booted)


def _absent(request: Request) -> Response:
    words = f"The resource '{request.url.path.removeprefix(API)}' was not found"
    return error(404, "notFound", words)
