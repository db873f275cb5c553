"""RunPod's REST API v2, as it was described in the autumn of 2026."""

from __future__ import annotations

import base64
import json
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.clouds.cloud import Cloud, Rented, free_port
from tests.clouds.machines import Profile
from tests.clouds.runpod_catalog import CPUS, DATA_CENTERS, GPUS, Cpu, Gpu, cpu_json, gpu_json
from tests.clouds.runpod_pods import ACTIONS, pod_json
from tests.clouds.runpod_requests import ActionRequest, CreatePod, UpdatePod

SOLD_OUT = (
    "There are no longer any instances available with the requested specifications. "
    "Please refresh and try again."
)
LARGEST_BODY = 102_400
TITLES = {
    400: "Bad Request",
    401: "Unauthorized",
    402: "Payment Required",
    403: "Forbidden",
    404: "Not Found",
    409: "Conflict",
    413: "Content Too Large",
    422: "Unprocessable Entity",
    429: "Too Many Requests",
}


class RunPodCloud(Cloud):
    """An account at RunPod."""

    name = "runpod"
    key_variable = "RUNPOD_API_KEY"
    url_variable = "RUNPOD_API_URL"
    api_path = "/v2"
    openapi = ("runpod-rest-v2.openapi.json", "")
    states = (("PROVISIONING", 0.5), ("STARTING", 0.5), ("RUNNING", 0.0))
    lost_word = "EXITED"

    def __init__(self, folder: Path, port: int = 0) -> None:
        super().__init__(folder, port)
        self.page_size = 1000
        """Pages are never longer than this, whatever the caller asks for."""
        self.forbidden: set[str] = set()
        """GPU types that the account has no access to."""
        self.price_factor = 1.0
        """What pods cost, compared with the catalogue."""
        self.direct_delay = 0.0
        """Seconds between RUNNING and an address for SSH."""
        self.quotas = {"minute": (6000, 60.0), "hour": (300_000, 3600.0), "day": (10**6, 86400.0)}
        """Calls and seconds of each window."""
        self._windows: dict[str, tuple[float, int]] = {}

    @staticmethod
    def amend(document: Any) -> None:
        gpu = document["components"]["schemas"]["CreateGpuConfig"]["allOf"][1]["properties"]
        gpu["minRamPerGpu"] = gpu["minVcpuCountPerGpu"] = {"type": "integer", "minimum": 1}

    def routes(self) -> list[Route]:
        return [
            Route("/v2/catalog/gpus", self._gpus),
            Route("/v2/catalog/cpus", self._cpus),
            Route("/v2/pods", self._list),
            Route("/v2/pods", self._create, methods=["POST"]),
            Route("/v2/pods/{id}", self._get),
            Route("/v2/pods/{id}", self._update, methods=["PATCH"]),
            Route("/v2/pods/{id}", self._delete, methods=["DELETE"]),
            Route("/v2/pods/{id}/action", self._act, methods=["POST"]),
            Route("/{path:path}", self._nowhere, methods=["GET", "POST", "PATCH", "DELETE"]),
        ]

    async def gate(self, request: Request) -> Response | None:
        if len(await request.body()) > LARGEST_BODY:  # looked at before the key
            return problem(413, f"request body exceeds {LARGEST_BODY} bytes")
        if not request.headers.get("User-Agent", "").strip():
            return Response("error code: 1010", status_code=403)
        key = self.bearer(request)
        if not key:
            return problem(401, "missing bearer token")
        if key != self.key and not self._may(key, request):
            return problem(401, "invalid api key")
        if key == self.key and self.expired:
            return problem(401, "api key expired")
        return self._limited()

    def finish(self, request: Request, response: Response) -> None:
        left = {name: (q - used, t) for name, q, used, t in self._usage()}
        response.headers["RateLimit"] = ", ".join(
            f'"{name}";r={max(0, r)};t={t}' for name, (r, t) in left.items()
        )
        response.headers["RateLimit-Policy"] = ", ".join(
            f'"{name}";q={quota};w={seconds:g}' for name, (quota, seconds) in self.quotas.items()
        )

    def environment(self, rented: Rented) -> Mapping[str, str]:
        return {
            **rented.facts["env"],
            "RUNPOD_POD_ID": rented.id,
            "RUNPOD_API_KEY": rented.key,
            "RUNPOD_API_URL": self.url,
            "RUNPOD_DC_ID": rented.facts["dc"],
        }

    async def power_off(self, rented: Rented) -> None:
        """The container starts again: a pod is not stopped from within but through the API."""

    def _may(self, key: str, request: Request) -> bool:
        """Return whether a pod's own key may do this: look at itself and end itself."""
        mine = [r for r in self.all if r.key == key and r.ended is None]
        return bool(mine) and request.url.path.startswith(f"/v2/pods/{mine[0].id}")

    def _limited(self) -> Response | None:
        """Count a call; a refusal names only the time of the shortest window that is used up."""
        now = time.monotonic()
        for name, (_, seconds) in self.quotas.items():
            since, used = self._windows.get(name, (now, 0))
            since, used = (now, 0) if now - since >= seconds else (since, used)
            self._windows[name] = (since, used + 1)
        for name, quota, used, left in self._usage():
            if used > quota:
                refusal = problem(429, f"rate limit exceeded for the {name} window")
                refusal.headers["Retry-After"] = str(left)
                return refusal
        return None

    def _usage(self) -> list[tuple[str, int, int, int]]:
        """Return (name, quota, used, whole seconds left) of each window."""
        now = time.monotonic()
        found = []
        for name, (quota, seconds) in self.quotas.items():
            since, used = self._windows.get(name, (now, 0))
            found.append((name, quota, used, max(0, -int(now - since - seconds) + 1)))
        return found

    # The catalogue.

    async def _gpus(self, request: Request) -> Response:
        query = request.query_params
        if refusal := _wrong_include(query):
            return refusal
        cloud, count = query.get("cloud", "SECURE"), int(query.get("count", 1))
        stock = "include" in query
        return JSONResponse({"gpus": [gpu_json(gpu, cloud, count, stock=stock) for gpu in GPUS]})

    async def _cpus(self, request: Request) -> Response:
        if refusal := _wrong_include(request.query_params):
            return refusal
        stock = "include" in request.query_params
        return JSONResponse({"cpus": [cpu_json(cpu, stock=stock) for cpu in CPUS]})

    # Pods.

    async def _create(self, request: Request) -> Response:
        try:
            asked = CreatePod.model_validate_json(await request.body())
        except ValidationError as error:
            return _unprocessable(error)
        if (asked.gpu is None) == (asked.cpu is None):
            return problem(400, "exactly one of gpu or cpu must be set")
        if not asked.image:
            return problem(422, "Request validation failed.", ["image: is required"])
        if asked.image.startswith("missing/"):
            return problem(422, f"image {asked.image!r} was not found on the registry")
        kind = asked.kind()
        if kind is None or not asked.fits(kind):
            return problem(400, SOLD_OUT)
        if kind.id in self.forbidden:
            return problem(403, "access denied")
        if self.no_funds:
            return problem(402, "insufficient balance to create this pod")
        center = self._placed(asked, kind)
        if center is None:
            return problem(400, SOLD_OUT)
        return JSONResponse(pod_json(self, self.rent(self._ordered(asked, kind, center))), 201)

    def _placed(self, asked: CreatePod, kind: Gpu | Cpu) -> str | None:
        for center in asked.dataCenterIds or list(kind.stock) or DATA_CENTERS:
            sold_out = self.sold_out(kind.id, center, f"{kind.id}@{center}")
            if kind.stock.get(center, "NONE") != "NONE" and not sold_out:
                return center
        return None

    def _ordered(self, asked: CreatePod, kind: Gpu | Cpu, center: str) -> Rented:
        env = dict(asked.env)
        keys = env.get("PUBLIC_KEY", "").splitlines()
        return Rented(
            id=secrets.token_hex(7),
            name=asked.name,
            offer=kind.id,
            price_per_hour=round(asked.price(kind) * self.price_factor, 4),
            status="",
            public_keys=keys if "22/tcp" in asked.ports else [],
            profile=Profile(gpus=asked.nvidia_smi(kind)),
            facts={"asked": asked, "env": env, "dc": center, "locked": False},
        )

    async def _list(self, request: Request) -> Response:
        query = request.query_params
        try:
            limit = int(query.get("limit", 1000))
            start = json.loads(base64.b64decode(query["cursor"]))["at"] if "cursor" in query else 0
        except (ValueError, KeyError, TypeError):
            return problem(422, "Request validation failed.", ["cursor: is malformed"])
        if not 1 <= limit <= 1000:
            return problem(422, "Request validation failed.", ["limit: must be 1 to 1000"])
        pods = self.listed()
        end = start + min(limit, self.page_size)
        more = end < len(pods)
        cursor = base64.b64encode(json.dumps({"at": end}).encode()).decode() if more else None
        return JSONResponse(
            {
                "pods": [pod_json(self, pod) for pod in pods[start:end]],
                "pagination": {"nextCursor": cursor, "hasNextPage": more},
            }
        )

    async def _get(self, request: Request) -> Response:
        pod = self.known(request.path_params["id"])
        return JSONResponse(pod_json(self, pod)) if pod else problem(404, "pod not found")

    async def _update(self, request: Request) -> Response:
        pod = self.known(request.path_params["id"])
        if pod is None:
            return problem(404, "pod not found")
        try:
            asked = UpdatePod.model_validate_json(await request.body())
        except ValidationError as error:
            return _unprocessable(error)
        pod.name = asked.name or pod.name
        pod.facts["locked"] = pod.facts["locked"] if asked.locked is None else asked.locked
        return JSONResponse(pod_json(self, pod))

    async def _delete(self, request: Request) -> Response:
        pod = self.known(request.path_params["id"])
        return await self._terminate(pod) if pod else problem(404, "pod not found")

    async def _terminate(self, pod: Rented) -> Response:
        if pod.facts["locked"] or self.refuses():
            return problem(409, "pod is locked or another action is in progress")
        if not self.ignores():
            await self.end(pod, gone=True)
        return Response(status_code=204)

    async def _act(self, request: Request) -> Response:
        pod = self.known(request.path_params["id"])
        if pod is None:
            return problem(404, "pod not found")
        try:
            action = ActionRequest.model_validate_json(await request.body()).action
        except ValidationError as error:
            return _unprocessable(error)
        if action not in ACTIONS[pod.status] or (pod.facts["locked"] and action != "start"):
            return problem(409, f"action {action} is not valid while the pod is {pod.status}")
        if action == "terminate":
            return await self._terminate(pod)
        if action != "start":
            await self.end(pod, "EXITED")
        if action != "stop":
            pod.port, pod.started = free_port(), None  # it changes
            self.boot(pod)
        return JSONResponse(pod_json(self, pod))

    async def _nowhere(self, request: Request) -> Response:
        return problem(404, "The requested path was not found.")


def problem(status: int, detail: str, errors: list[str] | None = None) -> JSONResponse:
    """Return an error as RFC 9457 has it."""
    body: dict[str, Any] = {"title": TITLES[status], "status": status, "detail": detail}
    if errors:
        body["errors"] = errors
    return JSONResponse(body, status, media_type="application/problem+json")


def _unprocessable(error: ValidationError) -> Response:
    places = [(".".join(map(str, e["loc"])), e["msg"]) for e in error.errors()]
    return problem(
        422, "Request validation failed.", [f"{place or '$'}: {said}" for place, said in places]
    )


def _wrong_include(query: Mapping[str, str]) -> Response | None:
    if ("include" in query) != ("product" in query):
        return problem(400, "include and product must be given together")
    if query.get("product", "POD") not in {"POD", "CLUSTER", "SERVERLESS"}:
        return problem(422, "Request validation failed.", ["product: is not known"])
    return None
