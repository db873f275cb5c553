"""Who calls the local Google Cloud: keys and tokens of service accounts, and the metadata server."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from tests.clouds.rented import TICK, Rented

if TYPE_CHECKING:
    from tests.clouds.gcp import GoogleCloud

EMAIL = "trainer@local-project.iam.gserviceaccount.com"
GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
SCOPE = "https://www.googleapis.com/auth/compute"
AUDIENCE = "https://oauth2.googleapis.com/token"  # also where the endpoint is another
METADATA = "/computeMetadata/v1"


class Identity:
    """The token endpoint and the metadata server, of a project and of each of its machines."""

    def __init__(self, cloud: GoogleCloud) -> None:
        self._cloud = cloud
        self._private = _private_key()
        self.token_seconds = 3600
        self.tokens = 0
        """How many were given out."""
        self.unavailable = 0
        """How many of the next reads of metadata are answered with 503."""
        self.waiting = 0
        """How many reads of metadata wait for a change now."""

    def routes(self) -> list[Route]:
        return [
            Route("/", self._ping),
            Route("/token", self._token, methods=["POST"]),
            Route(f"{METADATA}/{{path:path}}", self._project_metadata),
            Route(f"/vm/{{zone}}/{{name}}{METADATA}/{{path:path}}", self._metadata),
        ]

    def write_key(self, path: Path, token_uri: str, project: str) -> None:
        """Write the key file of a service account."""
        pem = self._private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        key = {
            "type": "service_account",
            "project_id": project,
            "private_key_id": "1",
            "private_key": pem.decode(),
            "client_email": EMAIL,
            "client_id": "1",
            "token_uri": token_uri,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(key))
        path.chmod(0o600)

    async def _token(self, request: Request) -> Response:
        asked = {
            name: values[0] for name, values in parse_qs((await request.body()).decode()).items()
        }
        try:
            claims: Mapping[str, Any] = jwt.decode(
                asked["assertion"],
                self._private.public_key(),
                algorithms=["RS256"],
                audience=AUDIENCE,
            )
            wrong = asked["grant_type"] != GRANT or SCOPE not in claims["scope"].split()
        except (KeyError, jwt.InvalidTokenError):
            wrong = True
        if wrong or self._cloud.expired:
            words = "Invalid JWT Signature."
            return JSONResponse({"error": "invalid_grant", "error_description": words}, 400)
        return self._given(self._cloud.key)

    def _given(self, key: str) -> Response:
        self.tokens += 1
        token = {"access_token": f"ya29.{key}", "expires_in": self.token_seconds}
        return JSONResponse({**token, "token_type": "Bearer"})

    async def _ping(self, request: Request) -> Response:
        return _text("computeMetadata/")

    async def _project_metadata(self, request: Request) -> Response:
        """Answer as on a machine that the orchestrator itself runs on."""
        return await self._answer(request, None)

    async def _metadata(self, request: Request) -> Response:
        zone, name = request.path_params["zone"], request.path_params["name"]
        return await self._answer(request, self._cloud.account[f"{zone}/{name}"])

    async def _answer(self, request: Request, rented: Rented | None) -> Response:
        if request.headers.get("Metadata-Flavor") != "Google":
            return PlainTextResponse("Missing Metadata-Flavor:Google header.", 403)
        if self.unavailable > 0:
            self.unavailable -= 1
            return PlainTextResponse("unavailable", 503)
        path = request.path_params["path"].rstrip("/")
        if path.startswith("instance/service-accounts"):
            return self._account(path, rented)
        if rented is not None and path == "instance/preempted":
            return await self._preempted(request, rented)
        known = {"project/project-id": self._cloud.project, "": ""}
        if rented is not None:
            zone = f"projects/{self._cloud.project}/zones/{rented.facts['zone']}"
            known |= {"instance/zone": zone, "instance/name": rented.facts["name"]}
        if path not in known:
            return PlainTextResponse("not found", 404)
        return _text(known[path])

    def _account(self, path: str, rented: Rented | None) -> Response:
        """Answer about the service account; a machine may have none."""
        if rented is not None and not rented.facts["asked"].get("serviceAccounts"):
            return PlainTextResponse("not found", 404)
        if path.endswith("/token"):
            return self._given(rented.key if rented else self._cloud.key)
        return JSONResponse({"email": EMAIL, "aliases": ["default"], "scopes": [SCOPE]})

    async def _preempted(self, request: Request, rented: Rented) -> Response:
        """Say whether it is taken back; a read that waits ends with the change, or its time."""
        query = request.query_params
        before = rented.facts.get("notice", False)
        until = time.monotonic() + float(query.get("timeout_sec", 3600))
        self.waiting += 1
        while query.get("wait_for_change") and time.monotonic() < until and rented.ended is None:
            if rented.facts.get("notice", False) != before:
                break
            await asyncio.sleep(TICK)
        self.waiting -= 1
        return _text("TRUE" if rented.facts.get("notice") else "FALSE")


@cache
def _private_key() -> rsa.RSAPrivateKey:
    """Return the key of all service accounts of this process: making one takes a while."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def _text(words: str) -> Response:
    return PlainTextResponse(words, headers={"Metadata-Flavor": "Google"})
