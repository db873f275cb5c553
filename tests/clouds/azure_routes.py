"""What the local Azure answers besides orders: lists, lookups, networks, metadata, prices, rights."""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from blocks.providers.azure.rights import IN_ACCOUNT, IN_GROUP, MAKE_GROUP
from tests.clouds.azure_parts import ADDRESSES, CARDS, DISKS, Part, Schedule, json_of
from tests.clouds.cloud import Cloud, Rented

if TYPE_CHECKING:
    from tests.clouds.azure_catalog import Size
    from tests.clouds.azure_login import Entra

RG = "/subscriptions/{sub}/resourceGroups/{group}"
VERBS = {"GET": "read", "PUT": "write", "PATCH": "write", "DELETE": "delete"}
WORDS = {
    "AllocationFailed": "Allocation failed. We do not have sufficient capacity for the requested "
    "VM size in this region.",
    "ZonalAllocationFailed": "Allocation failed. We do not have sufficient capacity for the "
    "requested VM size in this zone.",
    "OSProvisioningTimedOut": "OS Provisioning for VM did not finish in the allotted time.",
}


class AzureRoutes(Cloud):
    """The routes that a subscription has; `AzureCloud` adds what happens to machines."""

    subscription: str
    group: str
    entra: Entra
    parts: list[Part]
    schedules: dict[str, Schedule]
    sizes: dict[str, Size]
    limits: dict[str, dict[str, int]]
    no_address: bool

    def __init__(self, folder: Path, port: int = 0) -> None:
        super().__init__(folder, port)
        self.groups: dict[str, str] = {}
        """The state of each resource group, by its name in lower case."""
        self.networks: dict[str, dict[str, Any]] = {}
        """Networks and firewalls, by their paths."""
        self.unregistered: set[str] = set()
        """Resource providers that the subscription has not registered."""
        self.rights: set[str] = {*IN_GROUP, *IN_ACCOUNT, MAKE_GROUP}
        """What the login may do."""
        self.identity_rights = {"Microsoft.Compute/virtualMachines/delete"}
        """What the identity of a machine may do, with that machine alone."""
        self.identity_scope: dict[str, str] = {}
        """The path that it may do that with, by the machine's id; by default the machine's own."""
        self.policy = ""
        """By which every order is disallowed."""
        self.page_size = 1000
        self.next_host = ""
        """Of the next pages, in place of our own."""
        self.without_view = False
        """Whether machines are answered without their instance view."""

    def routes(self) -> list[Route]:
        sub, vms = "/subscriptions/{sub}", f"{RG}/providers/Microsoft.Compute/virtualMachines"
        labs, put, delete = f"{RG}/providers/Microsoft.DevTestLab/schedules", ["PUT"], ["DELETE"]
        net = f"{RG}/providers/Microsoft.Network"
        own = [
            Route(f"{vms}/{{name}}", self.put_machine, methods=put),
            Route(f"{vms}/{{name}}", self.patch_machine, methods=["PATCH"]),
            Route(f"{vms}/{{name}}", self.delete_machine, methods=delete),
            Route(f"{vms}/{{name}}", self._machine),
            Route(f"{vms}/{{name}}/simulateEviction", self._simulate, methods=["POST"]),
            Route(vms, self._machines),
            Route(f"{labs}/{{name}}", self.put_schedule, methods=put),
            Route(f"{labs}/{{name}}", self._delete_schedule, methods=delete),
            Route(labs, self._list_schedules),
            *(Route(f"{RG}/providers/Microsoft.Compute/{k}", self._parts) for k in (DISKS,)),
            *(Route(f"{net}/{kind}", self._parts) for kind in (CARDS, ADDRESSES)),
            Route(f"{RG}/providers/{{space}}/{{kind}}/{{name}}", self._delete_part, methods=delete),
            Route(f"{net}/{{kind}}/{{name}}", self._network),
            Route(f"{net}/{{kind}}/{{name}}", self._put_network, methods=put),
            Route(RG, self._group),
            Route(RG, self._put_group, methods=put),
            Route(f"{sub}/providers/Microsoft.Compute/skus", self._skus),
            Route(f"{sub}/providers/Microsoft.Compute/locations/{{location}}/usages", self._usages),
            Route(f"{sub}/providers/Microsoft.Authorization/permissions", self._permissions),
            Route(f"{RG}/providers/Microsoft.Authorization/permissions", self._permissions),
            Route(f"{sub}/providers/{{space}}", self._registration),
        ]
        imds = "/imds/{sub}/{group}/{name}/metadata"
        return [
            *own,
            Route(f"{imds}/scheduledevents", self._events),
            Route(f"{imds}/instance/compute/resourceId", self._own_id),
            Route(f"{imds}/identity/oauth2/token", self._own_token),
            Route("/api/retail/prices", self._prices),
        ]

    async def gate(self, request: Request) -> Response | None:
        path = request.url.path
        if path.startswith(("/imds/", "/api/retail/")):
            return None
        token = self.entra.tokens.get(self.bearer(request))
        if token is None or token.until < time.time() or (self.expired and not token.machine):
            code = "InvalidAuthenticationToken" if token is None else "ExpiredAuthenticationToken"
            return error(401, code, "The access token is invalid or has expired.")
        if f"/subscriptions/{self.subscription}" != path[: len("/subscriptions/") + 36]:
            return error(404, "SubscriptionNotFound", "The subscription could not be found.")
        if "api-version" not in request.query_params:
            return error(400, "MissingApiVersionParameter", "The api-version is required.")
        space = re.search(r"/resourceGroups/[^/]+/providers/(Microsoft\.\w+)/", path)
        if space and space[1] in self.unregistered:
            words = f"The subscription is not registered to use namespace '{space[1]}'."
            return error(409, "MissingSubscriptionRegistration", words)
        for action in actions_of(request.method, path):
            if not self._may(token.machine, action, path):
                words = (
                    f"The client does not have authorization to perform action '{action}' over "
                    f"scope '{path}' or the scope is invalid."
                )
                return error(403, "AuthorizationFailed", words)
        return None

    def _may(self, machine: str, action: str, path: str) -> bool:
        if not machine:
            return action in self.rights
        # The identity of a machine is for that machine, whatever its role would allow.
        own = self.identity_scope.get(machine, self.account[machine].facts["path"]).lower()
        return action in self.identity_rights and path.lower() == own

    def group_refuses(self, group: str) -> Response | None:
        """Return why nothing can be made in a group."""
        state = self.groups.get(group.lower())
        if state is None:
            return error(404, "ResourceGroupNotFound", f"Resource group '{group}' was not found.")
        if state == "Deleting":
            words = f"The resource group '{group}' is in deprovisioning state."
            return error(409, "ResourceGroupBeingDeleted", words)
        return None

    def network_at(self, path: str) -> dict[str, Any] | None:
        """Return a network or firewall."""
        return self.networks.get(path.lower())

    def used(self, location: str, quota: str) -> int:
        """Return how many vCPUs count against a quota now."""
        total = 0
        for rented in self.all:
            if rented.ended is None and rented.facts["asked"]["location"].lower() == location:
                size = self.sizes[rented.offer]
                spot = rented.facts["asked"]["properties"].get("priority") == "Spot"
                counts = ("lowPriorityCores",) if spot else ("cores", size.family)
                total += size.vcpus if quota in counts else 0
        return total

    # Lists and lookups.

    def page(self, request: Request, rows: Sequence[Any], *, items: str = "value") -> Response:
        """Return a part of a list, and where it goes on."""
        at = int(request.query_params.get("$skiptoken") or 0)
        body = {items: list(rows[at : at + self.page_size])}
        link = "NextPageLink" if items == "Items" else "nextLink"
        if at + self.page_size < len(rows):
            url = request.url.include_query_params(**{"$skiptoken": at + self.page_size})
            body[link] = str(url.replace(netloc=self.next_host) if self.next_host else url)
        return JSONResponse(body)

    async def _machines(self, request: Request) -> Response:
        group = request.path_params["group"].lower()
        if group not in self.groups:
            return error(404, "ResourceGroupNotFound", "Resource group was not found.")
        rows = [r for r in self.listed() if r.facts["group"].lower() == group]
        return self.page(request, [self.machine_json(rented, request) for rented in rows])

    async def _machine(self, request: Request) -> Response:
        rented = self._asked(request)
        return JSONResponse(self.machine_json(rented, request)) if rented else absent()

    async def _simulate(self, request: Request) -> Response:
        self.evict(self._asked(request).id, notice=0.2)
        return Response(status_code=204)

    async def _parts(self, request: Request) -> Response:
        kind = request.url.path.rpartition("/")[2]
        group = request.path_params["group"]
        if group.lower() not in self.groups:
            return error(404, "ResourceGroupNotFound", "Resource group was not found.")
        base, latest = f"/subscriptions/{self.subscription}/resourceGroups/{group}", time.time()
        latest -= max(self.list_lag, self.look_lag)
        rows = [
            json_of(part, base, rented.facts["path"], shown=self._has_address(rented))
            for part in self.parts
            if part.kind == kind and part.ended is None and part.created <= latest
            if (rented := self.account[part.machine]).facts["group"].lower() == group.lower()
        ]
        return self.page(request, rows)

    def _has_address(self, rented: Rented) -> bool:
        return not self.no_address and self.word(rented) not in {"Creating", "Failed"}

    async def _delete_part(self, request: Request) -> Response:
        kind, name = request.path_params["kind"], request.path_params["name"]
        found = [p for p in self.parts if (p.kind, p.name) == (kind, name) and p.ended is None]
        if not found:
            return Response(status_code=204)
        part = found[0]
        card = [p for p in self.parts if p.ended is None and p.name == part.facts.get("card")]
        if part.attached or (kind == ADDRESSES and card):
            code = {CARDS: "NicInUse", ADDRESSES: "PublicIPAddressCannotBeDeleted"}
            words = f"{name} is still attached to VM {part.machine}."
            return error(409, code.get(kind, "OperationNotAllowed"), words)
        part.ended = time.time()
        return Response(status_code=202)

    async def _list_schedules(self, request: Request) -> Response:
        rows = [{**one.body, "name": name} for name, one in self.schedules.items()]
        return self.page(request, rows)

    async def _delete_schedule(self, request: Request) -> Response:
        found = self.schedules.pop(request.path_params["name"], None)
        return Response(status_code=200 if found else 204)

    # Groups and networks.

    async def _group(self, request: Request) -> Response:
        name = request.path_params["group"]
        state = self.groups.get(name.lower())
        if state is None:
            return error(404, "ResourceGroupNotFound", f"Resource group '{name}' was not found.")
        return JSONResponse({"name": name, "properties": {"provisioningState": state}})

    async def _put_group(self, request: Request) -> Response:
        name = request.path_params["group"]
        if self.groups.setdefault(name.lower(), "Succeeded") == "Deleting":
            return self.group_refuses(name)
        return JSONResponse({"name": name, "properties": {"provisioningState": "Succeeded"}}, 201)

    async def _network(self, request: Request) -> Response:
        found = self.network_at(request.url.path)
        if found is None:
            return absent()
        found["properties"]["provisioningState"] = "Succeeded"
        return JSONResponse(found)

    async def _put_network(self, request: Request) -> Response:
        if refusal := self.group_refuses(request.path_params["group"]):
            return refusal
        made = {**await request.json(), "name": request.path_params["name"]}
        made["properties"]["provisioningState"] = "Updating"
        self.networks[request.url.path.lower()] = made
        return JSONResponse(made, 201)

    # The account.

    async def _skus(self, request: Request) -> Response:
        match = re.fullmatch(r"location eq '(\w+)'", request.query_params["$filter"])
        location = match[1] if match else ""
        other = {"resourceType": "disks", "name": "Premium_LRS", "locations": [location]}
        known = location in self.limits
        rows = [size.row(location) for size in self.sizes.values()] if known else []
        return self.page(request, [other, *rows])

    async def _usages(self, request: Request) -> Response:
        location = request.path_params["location"]
        if location not in self.limits:
            return error(400, "LocationNotAvailableForResourceType", "No such location.")
        rows = [
            {
                "unit": "Count",
                "currentValue": self.used(location, name),
                "limit": limit,
                "name": {"value": name, "localizedValue": name},
            }
            for name, limit in self.limits[location].items()
        ]
        return self.page(request, rows)

    async def _registration(self, request: Request) -> Response:
        space = request.path_params["space"]
        state = "NotRegistered" if space in self.unregistered else "Registered"
        return JSONResponse({"namespace": space, "registrationState": state})

    async def _permissions(self, request: Request) -> Response:
        return self.page(request, [{"actions": sorted(self.rights), "notActions": []}])

    async def _prices(self, request: Request) -> Response:
        asked = request.query_params["$filter"]
        names = re.findall(r"armSkuName eq '([^']+)'", asked)
        place = re.search(r"armRegionName eq '([^']+)'", asked)
        rows = [
            row
            for name in names
            if name in self.sizes and place
            for row in self.sizes[name].prices(place[1])
        ]
        return self.page(request, rows, items="Items")

    # The metadata service, which every machine asks about itself.

    async def _events(self, request: Request) -> Response:
        rented = self._asked(request)
        if rented is None or request.headers.get("Metadata") != "true":
            return Response(status_code=400)
        event = rented.facts.get("event")
        events = []
        if event:
            at = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(event))
            events = [
                {
                    "EventId": "602d9444-d2cd-49c7-8624-8643e7171297",
                    "EventType": "Preempt",
                    "ResourceType": "VirtualMachine",
                    "Resources": [request.path_params["name"]],
                    "EventStatus": "Scheduled",
                    "NotBefore": at,
                    "EventSource": "Platform",
                }
            ]
        return JSONResponse({"DocumentIncarnation": 1, "Events": events})

    async def _own_id(self, request: Request) -> Response:
        rented = self._asked(request)
        return Response(rented.facts["path"] if rented else "", media_type="text/plain")

    async def _own_token(self, request: Request) -> Response:
        rented = self._asked(request)
        if rented is None or not rented.facts["asked"].get("identity"):
            return JSONResponse({"error": "invalid_request"}, 400)
        token, lasts = self.entra.give(rented.id)
        return JSONResponse({"access_token": token, "expires_in": str(lasts)})

    def machine_json(self, rented: Rented, request: Request) -> dict[str, Any]:
        """Return a machine as Azure answers it."""
        asked, word = rented.facts["asked"], self.word(rented)
        facts = {k: v for k, v in asked["properties"].items() if k != "networkProfile"}
        facts["osProfile"] = {k: v for k, v in facts["osProfile"].items() if k != "customData"}
        power = word not in {"Creating", "Failed", "Deleting", "Updating"}
        facts["provisioningState"] = "Succeeded" if power else word
        facts["timeCreated"] = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(rented.created))
        if request.query_params.get("$expand") == "instanceView" and not self.without_view:
            facts["instanceView"] = {"statuses": _statuses(rented, word, power=power)}
        # What is broken on purpose must be seen where it is looked for.
        tags = {**rented.facts["tags"], "to-name": rented.name}
        return {
            "id": self.machine_path(rented),
            "name": self._name(rented),
            "type": "Microsoft.Compute/virtualMachines",
            "location": asked["location"],
            "tags": tags,
            "properties": facts,
            **({"zones": asked["zones"]} if asked.get("zones") else {}),
            **({"identity": asked["identity"]} if asked.get("identity") else {}),
        }


def _statuses(rented: Rented, word: str, *, power: bool) -> list[dict[str, str]]:
    if power:
        return [
            {"code": "ProvisioningState/succeeded", "level": "Info", "displayStatus": "Ready"},
            {"code": f"PowerState/{word}", "level": "Info", "displayStatus": f"VM {word}"},
        ]
    failure = rented.facts.get("failure")
    if word == "Failed" and failure:
        words = WORDS.get(failure, failure)
        code = f"ProvisioningState/failed/{failure}"
        return [{"code": code, "level": "Error", "displayStatus": "Failed", "message": words}]
    return [{"code": f"ProvisioningState/{word.lower()}", "level": "Info", "displayStatus": word}]


def actions_of(method: str, path: str) -> Collection[str]:
    """Return the rights that a call needs, as Azure derives them from its path."""
    verb = VERBS.get(method, "action")
    found = re.search(r"/providers/([^/]+)(?:/(.+))?$", path)
    if found is None:
        return [f"Microsoft.Resources/subscriptions/resourceGroups/{verb}"]
    if not found[2]:
        return [f"Microsoft.Resources/subscriptions/providers/{verb}"]
    words = found[2].split("/")
    kind = f"locations/{words[-1]}" if words[0] == "locations" else "/".join(words[::2])
    actions = [f"{found[1]}/{kind}/{verb}"]
    if method == "PUT" and kind == "virtualMachines":
        actions += JOINS
    return actions


JOINS: Sequence[str] = (
    "Microsoft.Compute/disks/write",
    "Microsoft.Network/networkInterfaces/join/action",
    "Microsoft.Network/networkInterfaces/write",
    "Microsoft.Network/publicIPAddresses/join/action",
    "Microsoft.Network/publicIPAddresses/write",
    "Microsoft.Network/virtualNetworks/subnets/join/action",
)


def error(status: int, code: str, message: str) -> JSONResponse:
    """Return an error as Azure has it."""
    return JSONResponse({"error": {"code": code, "message": message}}, status)


def absent() -> JSONResponse:
    """Return that a resource is not there."""
    return error(404, "ResourceNotFound", "The Resource was not found.")
