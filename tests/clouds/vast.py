"""Vast.ai's REST API, as its documents and its users describe it."""

from __future__ import annotations

import asyncio
import base64
import getpass
import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from tests.clouds.cloud import Cloud, Rented, free_port
from tests.clouds.machines import Profile
from tests.clouds.openapi import Contract
from tests.clouds.spacing import Spacing
from tests.clouds.vast_catalog import HOURS_PER_MONTH, Ask, catalog, search

RUNTYPES = {
    *("ssh", "ssh_direct", "ssh_proxy", "jupyter", "jupyter_direct", "jupyter_proxy", "args"),
    "ssh_direc ssh_proxy",  # as the official client sends it
}
OCI = "Error: OCI runtime create failed: container_linux.go:380: no such device"
STATES = ("intended_status", "cur_state", "next_state")


class VastCloud(Cloud):
    """An account at Vast.ai."""

    name = "vast"
    key_variable = "VAST_API_KEY"
    url_variable = "VAST_API_URL"
    openapi = ("vast.openapi.yaml", "")
    states = (("null", 0.2), ("created", 0.2), ("loading", 0.6), ("running", 0.0))
    lost_word = "exited"

    def __init__(self, folder: Path, port: int = 0) -> None:
        super().__init__(folder, port)
        self.contract = _Contract(*self.openapi)
        self.asks = catalog()
        self.account_keys: list[str] = []
        """The keys that every new instance accepts."""
        self.rates = Spacing()
        self.plain_429 = False
        """A call that comes too early is refused in plain text; else in JSON."""
        self.searches_left = 10**6
        """Of the day's quota."""
        self.auth_status = 401
        """Of an unknown key: 401 or 404."""
        self.ask_status = 404
        """Of an offer that is gone: 404, 410 or 400."""
        self.gone_status = 200
        """Of an instance that is gone: 200 with null, or 404."""
        self.oci_failure = False
        """Containers do not start; combine with `never_boot`."""
        self.onstart_works = True
        self._ids = iter(range(31_000_000, 32_000_000))

    def routes(self) -> list[Route]:
        put, post, delete = ["PUT"], ["POST"], ["DELETE"]
        return [
            Route("/api/v0/bundles/", self._search, methods=post),
            Route("/api/v0/asks/{id:int}/", self._create, methods=put),
            Route("/api/v1/instances/", self._list),
            Route("/api/v0/instances/{id:int}/", self._get),
            Route("/api/v0/instances/{id:int}/", self._change, methods=put),
            Route("/api/v0/instances/{id:int}/", self._destroy, methods=delete),
            Route("/api/v0/instances/{id:int}/ssh/", self._attach, methods=post),
            Route("/api/v0/users/current/", self._user),
        ]

    async def gate(self, request: Request) -> Response | None:
        self._loop = asyncio.get_running_loop()
        key = self.bearer(request)
        if not key:
            return refusal(403, "auth_error", "This action requires login.")
        mine = [one for one in self.all if one.key == key and not one.gone]
        own = mine and request.url.path.startswith(f"/api/v0/instances/{mine[0].id}/")
        if not own and (key != self.key or self.expired):
            return refusal(self.auth_status, "auth_error", "Invalid user key")
        return self._early(request)

    def environ(self) -> dict[str, str]:
        """Return the variables that point the product here."""
        return super().environ() | {"VAST_SSH_USER": getpass.getuser()}

    def environment(self, rented: Rented) -> Mapping[str, str]:
        return {
            **{k: v for k, v in rented.facts["asked"].get("env", {}).items() if k.isidentifier()},
            "CONTAINER_ID": rented.id,
            "CONTAINER_API_KEY": rented.key,
            "VAST_CONTAINERLABEL": f"C.{rented.id}",
            "VAST_API_URL": self.url,
        }

    def preempt(self, id: str) -> None:
        """Stop an instance without notice, as for a higher bid: its disk is kept and billed."""
        rented = self.account[id]
        rented.facts |= dict.fromkeys(STATES, "stopped")
        self._halt(rented)

    def resume(self, id: str) -> None:
        """Let a stopped instance run again, as when its bid is the highest once more."""
        rented = self.account[id]
        rented.facts |= dict.fromkeys(STATES, "running")
        rented.started, rented.port = None, free_port()
        self._loop.call_soon_threadsafe(self.boot, rented)

    def lose_host(self, id: str) -> None:
        """Let the host of an instance go offline; Vast.ai keeps the instance."""
        self._halt(self.account[id])
        self.account[id].status = "offline"

    async def power_off(self, rented: Rented) -> None:
        """The container ends; its disk is kept and billed."""
        await asyncio.to_thread(self._halt, rented)

    def alive(self) -> list[str]:
        """Return the ids of the instances that cost money: stopped ones do."""
        return [rented.id for rented in self.all if not rented.gone]

    def billing(self) -> list[tuple[str, str, float, float]]:
        """Return (id, name, seconds billed, USD): GPUs while it runs, the disk all the time."""
        found = []
        for one in self.all:
            end = one.ended or time.time()
            kept = ((one.facts["gone_at"] or time.time()) - one.created) * self.clock_rate
            ran = max(0.0, end - (one.started or end)) * self.clock_rate
            storage = one.facts["storage"]
            cost = (one.price_per_hour - storage) * ran + storage * kept
            found.append((one.id, one.name, kept, cost / 3600))
        return found

    def _halt(self, rented: Rented) -> None:
        self._end(rented)
        rented.status = "exited"

    def _early(self, request: Request) -> Response | None:
        kind, threshold = _threshold(request)
        if not self.rates.early(kind, threshold):
            return None
        words = f"API requests too frequent endpoint threshold={threshold * self.rates.factor:g}"
        if kind == "destroy":
            return refusal(429, "rate_limit_exceeded", words)
        if self.plain_429:
            return PlainTextResponse(words, 429)
        return JSONResponse({"detail": words}, 429)

    async def _search(self, request: Request) -> Response:
        self.searches_left -= 1
        if self.searches_left < 0:
            return refusal(429, "search_quota_exceeded", "Daily search quota exceeded.")
        try:
            return JSONResponse({"offers": search(self.asks, await request.json())})
        except (KeyError, ValueError) as error:
            return refusal(400, "invalid_args", f"error 400/3514: Invalid filter {error}")

    async def _create(self, request: Request) -> Response:
        id, asked = request.path_params["id"], await request.json()
        if wrong := _wrong(asked):
            return refusal(400, wrong, f"error 400/3471: {wrong} Invalid request.")
        ask = self.asks.get(id)
        if ask is None or ask.rented:
            words = f"error {self.ask_status}/3603: no_such_ask Instance type by id {id} is not available."
            return refusal(self.ask_status, "no_such_ask", words, ask_id=id)
        if self.no_funds:
            return refusal(400, "insufficient_credit", "Your account lacks credit.")
        bid = asked.get("price")
        queued = self.sold_out(str(id), ask.gpu_name)
        if queued and asked.get("cancel_unavail", bid is None):
            return refusal(410, "no_such_ask", "Offer is no longer available.", ask_id=id)
        rented = self._ordered(asked, ask, str(next(self._ids)))
        if queued or (bid is not None and bid < ask.min_bid):
            rented.facts |= dict.fromkeys(STATES if bid else STATES[1:], "stopped")
            rented.status, rented.ended = "null", time.time()
            self.account[rented.id] = rented
        else:
            await asyncio.to_thread(self._start_up, rented)
            self.rent(rented)
            ask.rented = True
        contract = {"new_contract": int(rented.id)}
        if bid is not None and bid < ask.min_bid:
            body = {"success": False, "msg": f"Bid is below the minimum of {ask.min_bid}."}
            return JSONResponse({**body, **contract}, 400)
        return JSONResponse({"success": True, **contract, "instance_api_key": rented.key})

    def _ordered(self, asked: Mapping[str, Any], ask: Ask, id: str) -> Rented:
        storage = ask.storage_cost * asked["disk"] / HOURS_PER_MONTH
        bid = asked.get("price")
        smi = f"NVIDIA GeForce {ask.gpu_name}, {ask.gpu_ram}"
        return Rented(
            id=id,
            name=asked.get("label") or "",
            offer=str(ask.id),
            price_per_hour=(ask.price if bid is None else bid) + storage,
            status="",
            public_keys=list(self.account_keys),
            profile=Profile(gpus=(smi,) * ask.num_gpus),
            facts={"asked": asked, "ask": ask, "storage": storage, "gone_at": None}
            | dict.fromkeys(STATES, "running"),
        )

    def _start_up(self, rented: Rented) -> None:
        """Run the container's onstart script; from then on it accepts the keys that this adds."""
        home = self.folder / rented.id / "home"
        home.mkdir(parents=True)
        script = rented.facts["asked"].get("onstart", "") if self.onstart_works else ""
        environment = {"HOME": str(home), "PATH": os.environ["PATH"], **self.environment(rented)}
        # What it leaves running ends with the container; until then it is in this group.
        with subprocess.Popen(
            ["bash", "-c", script], env=environment, start_new_session=True
        ) as run:
            rented.facts["group"] = run.pid
        keys = home / ".ssh" / "authorized_keys"
        if keys.exists():
            rented.public_keys = [*rented.public_keys, *keys.read_text().splitlines()]

    def _end(self, rented: Rented) -> None:
        super()._end(rented)
        if group := rented.facts.pop("group", None):
            with suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)

    async def _list(self, request: Request) -> Response:
        query = request.query_params
        try:
            start = json.loads(base64.b64decode(query.get("after_token", "MA==")))
        except ValueError:
            return refusal(400, "invalid_token", "Invalid after_token.")
        filters = json.loads(query.get("select_filters", "{}"))
        if set(filters) - {"label"}:
            return refusal(400, "invalid_request", "Invalid column.")
        label = filters.get("label", {}).get("eq")
        rows = [self._json(one) for one in self.listed() if label in {None, one.name}]
        limit = int(query.get("limit", 25))
        end = start + (min(limit, 25) if limit > 0 else 5)
        page = rows[start:end]
        token = base64.b64encode(str(end).encode()).decode() if end < len(rows) else None
        return JSONResponse(
            {
                "success": True,
                "instances_found": len(page),
                "total_instances": len(rows),
                "label_counts": {},
                "next_token": token,
                "instances": page,
            }
        )

    async def _get(self, request: Request) -> Response:
        rented = self.known(str(request.path_params["id"]))
        if rented is None and self.gone_status != 200:
            return _absent()
        return JSONResponse({"instances": self._json(rented) if rented else None})

    async def _change(self, request: Request) -> Response:
        rented = self.known(str(request.path_params["id"]))
        if rented is None:
            return _absent()
        asked = await request.json()
        if len(asked.get("label", "")) > 1024 or asked.get("state", "stopped") not in {
            "running",
            "stopped",
        }:
            return refusal(400, "invalid_args", "Invalid label or state.")
        rented.name = asked.get("label", rented.name)
        if asked.get("state") == "stopped":
            self.preempt(rented.id)
        elif asked.get("state") == "running" and rented.ended:
            rented.facts["intended_status"] = "running"
            words = "Required resources are currently unavailable, state change queued."
            return refusal(200, "resources_unavailable", words)
        return JSONResponse({"success": True})

    async def _destroy(self, request: Request) -> Response:
        rented = self.known(str(request.path_params["id"]))
        if rented is None:
            return _absent()
        if self.refuses():
            return refusal(200, "instance_busy", "Another action is in progress.")
        if not self.ignores():
            rented.facts["ask"].rented = False
            rented.facts["gone_at"] = time.time()
            await self.end(rented, gone=True)
        return JSONResponse({"success": True})

    async def _attach(self, request: Request) -> Response:
        rented = self.known(str(request.path_params["id"]))
        if rented is None:
            return _absent()
        key = (await request.json()).get("ssh_key", "")
        if not key.startswith("ssh-"):
            return refusal(400, "invalid_args", "Invalid ssh_key.")
        rented.public_keys = [*rented.public_keys, key]
        if self.bad_key is None and (machine := self.machines.get(rented.id)):
            machine.authorize(key)
        return JSONResponse({"success": True, "msg": "SSH key added to instance."})

    async def _user(self, request: Request) -> Response:
        credit = 0.0 if self.no_funds else 25.0
        return JSONResponse({"id": 1, "email": "a@example.com", "balance": 0, "credit": credit})

    def _json(self, rented: Rented) -> dict[str, Any]:
        asked, ask = rented.facts["asked"], rented.facts["ask"]
        word, running = self.word(rented), rented.status == "running"
        broken = self.oci_failure and not running
        direct = running and "direc" in asked.get("runtype", "") and ask.direct_port_count
        mapped = [{"HostIp": "0.0.0.0", "HostPort": str(rented.port)}]  # noqa: S104
        row = ask.row(asked["disk"], bid="price" in asked)
        shown = (
            "machine_id",
            "host_id",
            "gpu_name",
            "num_gpus",
            "gpu_ram",
            "min_bid",
            "geolocation",
        )
        return {
            **{name: row[name] for name in shown},
            **{name: rented.facts[name] for name in STATES},
            "id": int(rented.id),
            "actual_status": "created" if broken else None if word == "null" else word,
            "status_msg": OCI if broken else f"{word}: {asked['image']}",
            "label": rented.name,
            "image_uuid": asked["image"],
            "image_runtype": asked.get("runtype", "ssh"),
            "extra_env": [[name, value] for name, value in asked.get("env", {}).items()],
            "ssh_host": "127.0.0.1",
            "ssh_port": rented.port,
            "public_ipaddr": "127.0.0.1\n",
            "ports": {"22/tcp": mapped} if direct else None,
            "direct_port_count": ask.direct_port_count,
            "dph_total": rented.price_per_hour,
            "inet_up_cost": ask.inet_up_cost,
            "is_bid": "price" in asked,
            "disk_space": asked["disk"],
            "start_date": rented.created,
            "gpu_util": None,
        }


class _Contract(Contract):
    """The document knows paths without the slash at the end that the service wants."""

    def check(self, request: Request, body: bytes, response: Response) -> None:
        """Hold JSON against the document; it says nothing of text."""
        if response.headers.get("Content-Type") == "application/json":
            super().check(request, body, response)

    def _operation(self, method: str, path: str) -> Any:
        return super()._operation(method, path.rstrip("/"))


def refusal(status: int, code: str, words: str, **more: Any) -> JSONResponse:
    """Return an error as the API mostly has it."""
    return JSONResponse({"success": False, "error": code, "msg": words, **more}, status)


def _absent() -> JSONResponse:
    return refusal(404, "no_such_instance", "Instance not found.")


def _threshold(request: Request) -> tuple[str, float]:
    """Return the kind of a call, and the seconds that lie between two of them."""
    path, method = request.url.path, request.method
    if path.startswith("/api/v0/bundles"):
        return "search", 6.0
    if path.startswith("/api/v0/asks"):
        return "create", 4.5
    if path.endswith("/ssh/"):
        return "ssh", 1.0
    if path.startswith("/api/v1"):
        return "list", 1.0
    kinds = {"DELETE": ("destroy", 3.0), "GET": ("show", 2.0)}
    return kinds.get(method, ("manage", 1.0))


def _wrong(asked: Mapping[str, Any]) -> str:
    """Return the code of what is not allowed in an order."""
    price = asked.get("price")
    if price is not None and not 0.001 <= price <= 128:
        return "invalid_price"
    wrong = (
        not asked.get("image")
        or asked.get("disk", 10) < 8
        or not isinstance(asked.get("env", {}), dict)
        or len(asked.get("label") or "") > 256
        or len(asked.get("onstart") or "") > 4048
        or asked.get("runtype", "ssh") not in RUNTYPES
    )
    return "invalid_args" if wrong else ""
