"""Three vaults on one port: AWS Secrets Manager, Google Secret Manager and Azure Key Vault.

Each asks for the login that the real one asks for, as far as it can be checked without its keys.
"""

from __future__ import annotations

import base64
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar, Self
from urllib.parse import parse_qs, urlsplit

ACCESS_KEY, SECRET_KEY = "AKIAVAULTS", "not-checked-by-a-stand-in"
TOKEN = "vault-login-token"  # noqa: S105 - of a stand-in
HEADER = "the-header-of-a-managed-identity"


@dataclass
class Vaults:
    """Serves what it holds until it is closed."""

    held: dict[str, str] = field(default_factory=dict)
    """Secrets by name."""
    forbidden: set[str] = field(default_factory=set)
    """Names that the login may not read."""
    asked: list[str] = field(default_factory=list)
    """The names that were asked for."""

    def __enter__(self) -> Self:
        vaults = self

        class Bound(_Handler):
            """A handler of these vaults."""

            of = vaults

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Bound)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def environ(self, folder: Path) -> dict[str, str]:
        """Return the variables by which all three are reached and logged in to."""
        return {
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_REGION": "eu-west-1",
            "AWS_ENDPOINT_URL_SECRETS_MANAGER": self.url,
            "AWS_EC2_METADATA_DISABLED": "true",
            "GOOGLE_APPLICATION_CREDENTIALS": str(self._google_key(folder)),
            "SECRET_MANAGER_API_URL": self.url,
            # A managed identity, as App Service and Functions give it.
            "IDENTITY_ENDPOINT": f"{self.url}/identity",
            "IDENTITY_HEADER": HEADER,
            "AZURE_KEY_VAULT_URL": self.url,
        }

    def _google_key(self, folder: Path) -> Path:
        """Return the key file of a service account that logs in here."""
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import rsa

        key = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        path = folder / "google.json"
        record = {
            "type": "service_account",
            "project_id": "own-project",
            "client_email": "trainer@own-project.iam.gserviceaccount.com",
            "private_key": key.decode(),
            "private_key_id": "1",
            "token_uri": f"{self.url}/token",
        }
        path.write_text(json.dumps(record), encoding="utf-8")
        return path


class _Handler(BaseHTTPRequestHandler):
    of: ClassVar[Vaults]

    def do_POST(self) -> None:
        """AWS's only call, or Google's login."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path == "/token":
            self._answer(200, {"access_token": TOKEN, "expires_in": 3600, "token_type": "Bearer"})
            return
        login = self.headers.get("Authorization", "")
        if self.headers.get("X-Amz-Target") != "secretsmanager.GetSecretValue":
            self._aws(400, "UnknownOperationException")
        elif f"Credential={ACCESS_KEY}/" not in login or "/secretsmanager/" not in login:
            self._aws(400, "UnrecognizedClientException")
        else:
            found = self._read(json.loads(body)["SecretId"].rpartition(":")[2])
            match found:
                case "forbidden":
                    self._aws(400, "AccessDeniedException")
                case None:
                    self._aws(400, "ResourceNotFoundException")
                case [value]:
                    self._answer(200, {"Name": "n", "SecretString": value})

    def do_GET(self) -> None:
        """Read a secret, or Azure's login."""
        parts = urlsplit(self.path)
        query = parse_qs(parts.query)
        if parts.path == "/identity":
            right = self.headers.get("X-IDENTITY-HEADER") == HEADER
            vault = query.get("resource") == ["https://vault.azure.net"]
            token = {"access_token": TOKEN, "expires_on": "4102444800", "token_type": "Bearer"}
            self._answer(200 if right and vault else 401, token if right and vault else {})
            return
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._answer(401, {})
            return
        match parts.path.strip("/").split("/"):
            case ["secrets", name, *_] if query.get("api-version"):
                self._of(name, lambda value: {"value": value, "id": name})
            case ["v1", "projects", _, "secrets", name, "versions", version] if version.endswith(
                ":access"
            ):
                self._of(name, lambda value: {"payload": {"data": _base64(value)}})
            case _:
                self._answer(400, {})

    def _of(self, name: str, body: Any) -> None:
        match self._read(name):
            case "forbidden":
                self._answer(403, {})
            case None:
                self._answer(404, {})
            case [value]:
                self._answer(200, body(value))

    def _read(self, name: str) -> list[str] | str | None:
        self.of.asked.append(name)
        if name in self.of.forbidden:
            return "forbidden"
        return [self.of.held[name]] if name in self.of.held else None

    def _aws(self, status: int, code: str) -> None:
        self._answer(status, {"__type": code, "message": "no"})

    def _answer(self, status: int, body: Any) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


def _base64(value: str) -> str:
    return base64.b64encode(value.encode()).decode()
