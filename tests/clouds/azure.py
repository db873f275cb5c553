"""Azure Resource Manager, as its models describe it: machines, with all that belongs to them."""

from __future__ import annotations

import asyncio
import getpass
import secrets
import threading
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tests.clouds import azure_orders as orders
from tests.clouds.azure_catalog import LOCATIONS, catalog, limits
from tests.clouds.azure_login import Entra
from tests.clouds.azure_parts import Part, Schedule, next_time, parts_of
from tests.clouds.azure_routes import AzureRoutes, absent, error
from tests.clouds.cloud import Rented, free_port
from tests.clouds.machines import Profile
from tests.clouds.rented import TICK

COMPUTE = "Microsoft.Compute"
VMS = f"{COMPUTE}/virtualMachines"


class AzureCloud(AzureRoutes):
    """A subscription at Azure. Its machines have an address each and one port in common."""

    name = "azure"
    key_variable = "AZURE_CLIENT_SECRET"
    url_variable = "AZURE_API_URL"
    states = (("Creating", 0.6), ("starting", 0.4), ("running", 0.0))
    lost_word = "deallocated"

    def __init__(self, folder: Path, port: int = 0) -> None:
        self.subscription = str(uuid4())
        self.group = "training"
        super().__init__(folder, port)
        self.sizes = catalog()
        self.limits = {location: limits() for location in LOCATIONS}
        """Quotas in vCPUs, by location and name."""
        self.ssh_port = free_port()
        """Where all sshds listen; at Azure it is 22."""
        self.parts: list[Part] = []
        """Every disk, card and address there ever was."""
        self.schedules: dict[str, Schedule] = {}
        """By name."""
        self.changed: list[str] = []
        """Names of machines that a second order changed."""
        self.fails_late: list[str] = []
        """Codes by which the next orders fail after they were accepted."""
        self.leaves: Collection[str] = ()
        """Kinds of parts that stay when their machine goes, whatever was ordered."""
        self.no_address = False
        """Whether machines never get a public address."""
        self.deleting_seconds = 0.1
        """How long a machine that is deleted is still listed."""
        self.schedule_looks = 0
        """How often it was looked whether a schedule is due."""
        self.clock_ahead = 0.0
        """Seconds by which the clock of the schedules is ahead."""
        self.entra = Entra(lambda: None if self.expired else self.key)
        self._schedulers: set[asyncio.Task[None]] = set()

    def environ(self) -> dict[str, str]:
        """Return the variables that point the product here."""
        return super().environ() | {
            "AZURE_PROVIDER": "1",
            "AZURE_SUBSCRIPTION_ID": self.subscription,
            "AZURE_RESOURCE_GROUP": self.group,
            "AZURE_LOCATIONS": ",".join(LOCATIONS),
            "AZURE_SSH_FROM": "127.0.0.0/8",
            "AZURE_SSH_USER": getpass.getuser(),
            "AZURE_SSH_PORT": str(self.ssh_port),
            "AZURE_PRICES_URL": self.url,
            "AZURE_TENANT_ID": self.entra.tenant,
            "AZURE_CLIENT_ID": self.entra.client,
            "AZURE_AUTHORITY_HOST": self.entra.url,
            "REQUESTS_CA_BUNDLE": str(self.folder / "entra.pem"),
        }

    def environment(self, rented: Rented) -> Mapping[str, str]:
        """Say where the metadata service is; at Azure it has an address of its own."""
        return {"AZURE_IMDS_URL": f"{self.url}/imds/{rented.id}"}

    def start(self) -> None:
        super().start()
        self.entra.start(self.folder)

    def stop(self) -> None:
        self.entra.stop()
        super().stop()

    # What a test does.

    def alive(self) -> list[str]:
        """Return the ids of machines of which anything is left."""
        parts = {part.machine for part in self.parts if part.ended is None}
        return [r.id for r in self.all if r.ended is None or r.id in parts]

    def left_over(self) -> list[str]:
        """Return the names of everything that belongs to no machine any more."""
        machines = {r.id for r in self.all if not r.gone and r.status != "Deleting"}
        parts = [p.name for p in self.parts if p.ended is None and p.machine not in machines]
        names = {self._name(r) for r in self.all if r.id in machines}
        return parts + [n for n, s in self.schedules.items() if s.machine not in names]

    def billing(self) -> list[tuple[str, str, float, float]]:
        """Return (id, name, seconds billed, USD) of every machine, disk and address included."""
        now = time.time()
        return [
            (
                rented.id,
                rented.name,
                seconds := self._billed(rented),
                rented.price_per_hour * seconds / 3600
                + self.clock_rate * sum(p.bill(now) for p in self.parts if p.machine == rented.id),
            )
            for rented in self.all
        ]

    def kill_machine(self, id: str) -> None:
        """Delete a machine as somebody else does in the portal, with what goes along."""
        super().kill_machine(id)
        self._let_go(self.account[id])

    def announce(self, id: str, seconds: float = 30.0) -> None:
        """Let the metadata service announce the end of a machine, in so many seconds."""
        self.account[id].facts["event"] = time.time() + seconds

    def evict(self, id: str, *, notice: float | None = None) -> None:
        """Take a spot machine back.

        Args:
            id: which.
            notice: seconds before, in which it is announced; None: no word, and at once.
        """
        rented = self.account[id]
        if notice is None:
            self._evicted(rented)
            return
        self.announce(id, notice)
        timer = threading.Timer(notice, self._evicted, [rented])
        timer.daemon = True
        timer.start()

    def _evicted(self, rented: Rented) -> None:
        if rented.facts["asked"]["properties"].get("evictionPolicy") == "Delete":
            self.kill_machine(rented.id)
        else:
            self.preempt(rented.id)

    # Orders.

    async def put_machine(self, request: Request) -> Response:
        name, group = request.path_params["name"].lower(), request.path_params["group"]
        asked = await request.json()
        if refusal := self.group_refuses(group):
            return refusal
        rented = self.known(self._id(group, name))
        if rented:
            if request.headers.get("If-None-Match") == "*":
                return error(412, "PreconditionFailed", f"The resource {name} already exists.")
            self.changed.append(name)
            rented.facts["asked"] = asked
            rented.name = (asked.get("tags") or {}).get("to-name", "")
            return JSONResponse(self.machine_json(rented, request))
        if refusal := orders.refusal(self, asked, name):
            return refusal
        rented = self._ordered(asked, group, name)
        body = JSONResponse(self.machine_json(rented, request), 201)
        operation = f"{self.url}/subscriptions/{self.subscription}/providers/{COMPUTE}/operations/1"
        body.headers["Azure-AsyncOperation"] = operation
        return body

    def _ordered(self, asked: Mapping[str, Any], group: str, name: str) -> Rented:
        facts = asked["properties"]
        size = self.sizes[facts["hardwareProfile"]["vmSize"]]
        spot = facts.get("priority") == "Spot"
        numbers = [str(1 + secrets.randbelow(250)) for _ in range(3)]
        keys = facts["osProfile"]["linuxConfiguration"]["ssh"]["publicKeys"]
        rented = Rented(
            id=self._id(group, name),
            name=(asked.get("tags") or {}).get("to-name", ""),
            offer=size.name,
            price_per_hour=size.spot_price if spot else size.price,
            status="",
            public_keys=[key["keyData"] for key in keys],
            profile=Profile(gpus=(size.smi,) * size.gpus),
            facts={"asked": dict(asked), "tags": dict(asked.get("tags") or {}), "group": group},
            address=f"127.{'.'.join(numbers)}",
            port=self.ssh_port,
        )
        self.parts += parts_of(asked, name, rented.id, rented.address)
        self.rent(rented)
        rented.facts["path"] = self.machine_path(rented)
        for work in (self._scheduler(rented), self._late(rented)):
            task = asyncio.get_running_loop().create_task(work)
            self._schedulers.add(task)
            task.add_done_callback(self._schedulers.discard)
        return rented

    async def patch_machine(self, request: Request) -> Response:
        rented = self._asked(request)
        if rented is None:
            return absent()
        rented.facts["tags"] = (await request.json()).get("tags", {})
        rented.name = rented.facts["tags"].get("to-name", "")
        return JSONResponse(self.machine_json(rented, request))

    async def delete_machine(self, request: Request) -> Response:
        rented = self._asked(request)
        if rented is None:
            return Response(status_code=204)
        if self.refuses():
            return error(409, "AnotherOperationInProgress", "Another operation is in progress.")
        if not self.ignores():
            rented.facts.setdefault("gone_at", time.time() + self.deleting_seconds)
            await self.end(rented, "Deleting")
            self._let_go(rented)
        return Response(status_code=202, headers={"Retry-After": "1"})

    async def put_schedule(self, request: Request) -> Response:
        name, asked = request.path_params["name"], await request.json()
        facts = asked["properties"]
        machine = facts["targetResourceId"].rpartition("/")[2].lower()
        if name != f"shutdown-computevm-{machine}" or facts["timeZoneId"] != "UTC":
            return error(400, "InvalidParameter", "The name of the schedule is not its machine's.")
        if not self.known(self._id(request.path_params["group"], machine)):
            return absent()
        due = next_time(facts["dailyRecurrence"]["time"], time.time() + self.clock_ahead)
        self.schedules[name] = Schedule(body=asked, machine=machine, due=due)
        return JSONResponse({**asked, "name": name})

    # What happens to machines by itself.

    async def power_off(self, rented: Rented) -> None:
        """The machine is off and billed on: only deallocating or deleting it ends that."""
        if machine := self.machines.pop(rented.id, None):
            await asyncio.to_thread(machine.kill)
        rented.status = "stopped"

    def _let_go(self, rented: Rented) -> None:
        """Remove what goes with a machine, and leave the rest."""
        for part in self.parts:
            if part.machine == rented.id and part.ended is None:
                part.attached = False
                if part.goes_along and part.kind not in self.leaves:
                    part.ended = time.time()

    async def _late(self, rented: Rented) -> None:
        """Fail an order that was accepted, as asked for."""
        if self.fails_late:
            rented.facts["failure"] = self.fails_late.pop(0)
            await asyncio.sleep(self.boot_seconds / 2)
            await self.end(rented, "Failed")

    async def _scheduler(self, rented: Rented) -> None:
        """Deallocate a machine when its schedule says so, if it is still on or was shut down."""
        while not rented.gone and rented.ended is None:
            self.schedule_looks += 1
            found = self.schedules.get(f"shutdown-computevm-{self._name(rented)}")
            if found and time.time() + self.clock_ahead >= found.due:
                await self.end(rented, "deallocated")
            await asyncio.sleep(TICK)

    # What routes are made of.

    def known(self, id: str) -> Rented | None:
        self._forget()
        return super().known(id)

    def listed(self) -> list[Rented]:
        self._forget()
        return super().listed()

    def _forget(self) -> None:
        """Forget what was deleted long enough ago."""
        for rented in self.all:
            if rented.status == "Deleting" and time.time() >= rented.facts["gone_at"]:
                rented.gone = True

    def _asked(self, request: Request) -> Rented | None:
        return self.known(self._id(request.path_params["group"], request.path_params["name"]))

    def _id(self, group: str, name: str) -> str:
        return f"{self.subscription}/{group.lower()}/{name.lower()}"

    def _name(self, rented: Rented) -> str:
        return rented.id.rpartition("/")[2]

    def machine_path(self, rented: Rented) -> str:
        """Return the id that Azure gives a machine; its lists spell the group in capitals."""
        group = str(rented.facts["group"]).upper()
        base = f"/subscriptions/{self.subscription}/resourceGroups/{group}"
        return f"{base}/providers/{VMS}/{self._name(rented)}"
