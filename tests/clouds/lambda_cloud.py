"""Lambda Cloud's REST API, as its OpenAPI document 1.10.0 and its users describe it."""

from __future__ import annotations

import asyncio
import base64
import getpass
import re
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.clouds.cloud import Cloud, Rented, free_port
from tests.clouds.lambda_catalog import REGIONS, catalog
from tests.clouds.machines import Profile
from tests.clouds.spacing import Spacing

LAUNCH_FIELDS = {
    *("region_name", "instance_type_name", "ssh_key_names", "name", "hostname", "tags", "image"),
    *("user_data", "file_system_names", "file_system_mounts", "firewall_rulesets"),
}
LAUNCH = "/api/v1/instance-operations/launch"


class LambdaCloud(Cloud):
    """An account at Lambda Cloud. Its machines have an address each and one port in common."""

    name = "lambda"
    key_variable = "LAMBDA_API_KEY"
    url_variable = "LAMBDA_API_URL"
    api_path = "/api/v1"
    openapi = ("lambda-cloud-v1.openapi.json", "")
    states = (("booting", 0.4), ("booting with ip", 0.6), ("active", 0.0))
    lost_word = "preempted"

    def __init__(self, folder: Path, port: int = 0) -> None:
        super().__init__(folder, port)
        self.kinds = catalog()
        self.ssh_port = free_port()
        """Where all sshds listen; at Lambda it is 22."""
        self.keys: dict[str, dict[str, str]] = {}
        """The account's SSH keys by id."""
        self.rates = Spacing()
        self.quota_exceeded = False
        self.launch_seconds = 0.0
        """How long a launch takes to be answered."""
        self.terminating_seconds = 0.2
        """How long an instance that was terminated is still listed; its key is in use meanwhile."""
        self.null_ip = False
        """An address that is not there yet is null; else it is absent."""

    def routes(self) -> list[Route]:
        post, delete = ["POST"], ["DELETE"]
        operations = f"{self.api_path}/instance-operations"
        everything = ["GET", "POST", "PUT", "PATCH", "DELETE"]
        return [
            Route(f"{self.api_path}/instance-types", self._types),
            Route(LAUNCH, self._launch, methods=post),
            Route(f"{operations}/terminate", self._terminate, methods=post),
            Route(f"{self.api_path}/instances", self._list),
            Route(f"{self.api_path}/instances/{{id}}", self._get),
            Route(f"{self.api_path}/instances/{{id}}", self._rename, methods=post),
            Route(f"{self.api_path}/ssh-keys", self._keys),
            Route(f"{self.api_path}/ssh-keys", self._add_key, methods=post),
            Route(f"{self.api_path}/ssh-keys/{{id}}", self._remove_key, methods=delete),
            Route("/{path:path}", self._nowhere, methods=everything),
        ]

    async def gate(self, request: Request) -> Response | None:
        agent = request.headers.get("User-Agent", "")
        if not agent or agent.startswith("Python-urllib"):
            return Response("error code: 1010", status_code=403)
        if self._key_of(request) != self.key or self.expired:
            return error(401, "global/invalid-api-key", "API key was invalid, expired, or deleted.")
        early = self.rates.early("", 1.0)
        if early or (request.url.path == LAUNCH and self.rates.early("launch", 12.0)):
            return Response("Too Many Requests", status_code=429)
        return None

    def environ(self) -> dict[str, str]:
        """Return the variables that point the product here."""
        ssh = {"LAMBDA_SSH_PORT": str(self.ssh_port), "LAMBDA_SSH_USER": getpass.getuser()}
        return super().environ() | ssh

    def known(self, id: str) -> Rented | None:
        self._forget()
        return super().known(id)

    def listed(self) -> list[Rented]:
        self._forget()
        return super().listed()

    def word(self, rented: Rented) -> str:
        return super().word(rented).partition(" ")[0]

    async def power_off(self, rented: Rented) -> None:
        """The machine is off and billed on: only terminate ends that."""
        if machine := self.machines.pop(rented.id, None):
            await asyncio.to_thread(machine.kill)
        rented.status = "unhealthy"

    def _key_of(self, request: Request) -> str:
        """Return the key, of either way to send it."""
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "basic":
            return base64.b64decode(given).decode().removesuffix(":")
        return self.bearer(request)

    def _forget(self) -> None:
        """Forget what was terminated long enough ago."""
        for rented in self.all:
            if rented.status == "terminating" and time.time() >= rented.facts["gone_at"]:
                rented.gone = True

    async def _types(self, request: Request) -> Response:
        return _data(
            {
                name: {
                    "instance_type": kind.json(),
                    "regions_with_capacity_available": [_region(name) for name in kind.regions],
                }
                for name, kind in self.kinds.items()
            }
        )

    async def _launch(self, request: Request) -> Response:
        asked = await request.json()
        await asyncio.sleep(self.launch_seconds)
        if wrong := self._wrong(asked):
            return _invalid(wrong)
        if self.no_funds:
            return error(403, "global/account-inactive", "Your account is inactive.")
        keys = [key for key in self.keys.values() if key["name"] == asked["ssh_key_names"][0]]
        if not keys:
            return error(400, "global/object-does-not-exist", "Specified SSH key does not exist.")
        if self.quota_exceeded:
            return error(400, "global/quota-exceeded", "Quota exceeded.")
        name, region = asked["instance_type_name"], asked["region_name"]
        available = region in self.kinds[name].regions
        if not available or self.sold_out(name, region, f"{name}@{region}"):
            return error(
                400,
                "instance-operations/launch/insufficient-capacity",
                "Not enough capacity to fulfill launch request.",
            )
        rented = self.rent(self._ordered(asked, keys[0]))
        return _data({"instance_ids": [rented.id]})

    def _wrong(self, asked: Mapping[str, Any]) -> str:
        """Return what is not allowed in a launch."""
        tags = asked.get("tags", [])
        if set(asked) - LAUNCH_FIELDS:
            return "Requested too many instances." if asked.get("quantity", 1) > 1 else "Bad field."
        if asked.get("region_name") not in REGIONS:
            return "region_name is invalid."
        if asked.get("instance_type_name") not in self.kinds:
            return "instance_type_name is invalid."
        if len(asked.get("ssh_key_names", [])) != 1:
            return "Exactly one SSH key must be given."
        if len(asked.get("name", "")) > 64:
            return "name is too long."
        if any(not re.fullmatch("[a-z][a-z0-9-:]{1,54}", tag["key"]) for tag in tags):
            return "tags: key is invalid."
        return "tags: value is too long." if any(len(tag["value"]) > 128 for tag in tags) else ""

    def _ordered(self, asked: Mapping[str, Any], key: Mapping[str, str]) -> Rented:
        kind = self.kinds[asked["instance_type_name"]]
        numbers = [str(1 + secrets.randbelow(250)) for _ in range(3)]
        return Rented(
            id=secrets.token_hex(16),
            name=asked.get("name", ""),
            offer=kind.name,
            price_per_hour=kind.cents / 100,
            status="",
            public_keys=[key["public_key"]],
            profile=Profile(gpus=(kind.smi,) * kind.gpus),
            facts={"asked": asked, "cents": kind.cents},
            address=f"127.{'.'.join(numbers)}",
            port=self.ssh_port,
        )

    async def _list(self, request: Request) -> Response:
        return _data([self._json(rented) for rented in self.listed()])

    async def _get(self, request: Request) -> Response:
        rented = self.known(request.path_params["id"])
        return _data(self._json(rented)) if rented else _absent(404)

    async def _rename(self, request: Request) -> Response:
        rented = self.known(request.path_params["id"])
        if rented is None:
            return _absent(404)
        name = (await request.json()).get("name", rented.name)
        if len(name) > 64:
            return _invalid("name is too long.")
        rented.name = name
        return _data(self._json(rented))

    async def _terminate(self, request: Request) -> Response:
        ids = (await request.json())["instance_ids"]
        found = [self.known(id) for id in ids]
        rented = [one for one in found if one]
        if len(rented) < len(ids):
            return _absent(400)
        if self.refuses():
            return error(409, "global/conflict", "The request conflicts with the current state.")
        if not self.ignores():
            for one in rented:
                one.facts.setdefault("gone_at", time.time() + self.terminating_seconds)
                await self.end(one, "terminating")
        return _data({"terminated_instances": [self._json(one) for one in rented]})

    async def _keys(self, request: Request) -> Response:
        return _data(list(self.keys.values()))

    async def _add_key(self, request: Request) -> Response:
        asked = await request.json()
        if not 1 <= len(asked.get("name", "")) <= 64 or "public_key" not in asked:
            return _invalid("name or public_key is invalid.")
        if any(key["name"] == asked["name"] for key in self.keys.values()):
            return _invalid("An SSH key with this name exists.")
        key = {"id": secrets.token_hex(16), **asked}
        self.keys[key["id"]] = key
        return _data(key)

    async def _remove_key(self, request: Request) -> Response:
        key = self.keys.get(request.path_params["id"])
        if key is None:
            return error(404, "global/object-does-not-exist", "Specified SSH key does not exist.")
        self._forget()
        used = {one.facts["asked"]["ssh_key_names"][0] for one in self.all if not one.gone}
        if key["name"] in used:
            return error(400, "ssh-keys/key-in-use", "SSH key is in use.")
        del self.keys[key["id"]]
        return _data({})

    async def _nowhere(self, request: Request) -> Response:
        return error(404, "global/not-found", "Not found.")

    def _json(self, rented: Rented) -> dict[str, Any]:
        asked, young = rented.facts["asked"], rented.status.startswith("booting")
        kind = self.kinds[rented.offer].json()
        blocked = {"available": False, "reason_code": "vm-has-not-launched"}
        told = {"ip": rented.address, "private_ip": rented.address}
        if rented.status == "booting":
            told = {"ip": None, "private_ip": None} if self.null_ip else {}
        actions = ("migrate", "rebuild", "restart", "cold_reboot", "terminate")
        return {
            "id": rented.id,
            "name": rented.name,
            "status": self.word(rented),
            "ssh_key_names": asked["ssh_key_names"],
            "file_system_names": [],
            "file_system_mounts": [],
            "region": _region(asked["region_name"]),
            "instance_type": {**kind, "price_cents_per_hour": rented.facts["cents"]},
            "actions": dict.fromkeys(actions, blocked if young else {"available": True}),
            "tags": asked.get("tags", []),
            "firewall_rulesets": [],
            "is_reserved": False,
            **told,
        }


def error(status: int, code: str, message: str) -> JSONResponse:
    """Return an error as the API has it."""
    return JSONResponse({"error": {"code": code, "message": message}}, status)


def _data(value: Any) -> JSONResponse:
    return JSONResponse({"data": value})


def _invalid(message: str) -> JSONResponse:
    return error(400, "global/invalid-parameters", message)


def _absent(status: int) -> JSONResponse:
    return error(status, "global/object-does-not-exist", "Specified instance does not exist.")


def _region(name: str) -> dict[str, str]:
    return {"name": name, "description": REGIONS[name]}
