"""A made-up cloud with the smallest API that can be hired from; docs/adding-a-provider.md uses it."""

from __future__ import annotations

import getpass
import json
import secrets
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.clouds.cloud import Cloud, Rented
from tests.clouds.machines import Profile

PRICE = 0.1


class PlainCloud(Cloud):
    """An account at PlainCloud: one kind of machine, with tags."""

    name = "plain"
    key_variable = "PLAIN_API_KEY"
    url_variable = "PLAIN_API_URL"
    states = (("starting", 1.0), ("up", 0.0))
    lost_word = "taken"

    def __init__(self, folder: Path, port: int = 0) -> None:
        super().__init__(folder, port)
        self.price_factor = 1.0

    def routes(self) -> list[Route]:
        one = "/machines/{id}"
        return [
            Route("/machines", self._list),
            Route("/machines", self._create, methods=["POST"]),
            Route(one, self._get),
            Route(one, self._tag, methods=["PATCH"]),
            Route(one, self._delete, methods=["DELETE"]),
        ]

    async def gate(self, request: Request) -> Response | None:
        if self.bearer(request) != self.key or self.expired:
            return JSONResponse({"why": "this key is not known"}, 401)
        return None

    async def _list(self, request: Request) -> Response:
        return JSONResponse([self._json(one) for one in self.listed()])

    async def _create(self, request: Request) -> Response:
        asked = json.loads(await request.body())
        if self.sold_out("cpu"):
            return JSONResponse({"why": "sold out"}, 409)
        rented = Rented(
            id=secrets.token_hex(6),
            name=asked["tag"],
            offer="cpu",
            price_per_hour=PRICE * self.price_factor,
            status="",
            public_keys=[asked["key"]] if asked.get("key") else [],
            profile=Profile(),
        )
        return JSONResponse(self._json(self.rent(rented)), 201)

    async def _get(self, request: Request) -> Response:
        rented = self.known(request.path_params["id"])
        return JSONResponse(self._json(rented)) if rented else _absent()

    async def _tag(self, request: Request) -> Response:
        rented = self.known(request.path_params["id"])
        if rented is None:
            return _absent()
        rented.name = json.loads(await request.body())["tag"]
        return JSONResponse(self._json(rented))

    async def _delete(self, request: Request) -> Response:
        rented = self.known(request.path_params["id"])
        if rented is None:
            return _absent()
        if self.refuses():
            return JSONResponse({"why": "it is locked"}, 423)
        if not self.ignores():
            await self.end(rented, gone=True)
        return Response(status_code=204)

    def _json(self, rented: Rented) -> dict[str, Any]:
        return {
            "id": rented.id,
            "tag": rented.name,
            "state": self.word(rented),
            "price": rented.price_per_hour,
            "host": rented.address,
            "port": rented.port,
            "user": getpass.getuser(),
        }


def _absent() -> Response:
    return JSONResponse({"why": "there is no such machine"}, 404)
