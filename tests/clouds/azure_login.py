"""Microsoft Entra and the metadata service of the local Azure: who gets a token, and for what."""

from __future__ import annotations

import datetime
import ipaddress
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl
from uuid import uuid4

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.clouds.serving import Server


@dataclass
class Token:
    """A token that was given out."""

    until: float
    """Unix seconds."""
    machine: str = ""
    """The id of the machine whose identity has it; empty: it is the account's."""


class Entra:
    """The token endpoint, with TLS and a certificate of its own: azure-identity takes no other."""

    def __init__(self, secret: Callable[[], str | None]) -> None:
        """Prepare.

        Args:
            secret: returns the client secret; None when it has expired.
        """
        self.tenant, self.client = str(uuid4()), str(uuid4())
        self.tokens: dict[str, Token] = {}
        self.lasts = 3600
        """Seconds for which a token is valid."""
        self.asked = 0
        """How many tokens were asked for."""
        self.away = False
        self._secret = secret
        self._server: Server | None = None

    @property
    def url(self) -> str:
        """The authority."""
        assert self._server
        return f"https://127.0.0.1:{self._server.port}"

    def start(self, folder: Path) -> None:
        """Listen; the certificate is in the folder afterwards."""
        key, certificate = folder / "entra.key", folder / "entra.pem"
        _certify(key, certificate)
        routes = [
            Route("/{tenant}/v2.0/.well-known/openid-configuration", self._configuration),
            Route("/{tenant}/oauth2/v2.0/token", self._token, methods=["POST"]),
        ]
        files = {"ssl_keyfile": str(key), "ssl_certfile": str(certificate)}
        self._server = Server(Starlette(routes=routes), 0, **files)
        self._server.start()

    def stop(self) -> None:
        """Stop listening."""
        if self._server:
            self._server.stop()

    def give(self, machine: str = "") -> tuple[str, int]:
        """Return a new token and for how many seconds it is valid."""
        text = f"eyJ0.{secrets.token_urlsafe(24)}"
        self.tokens[text] = Token(time.time() + self.lasts, machine)
        return text, self.lasts

    async def _configuration(self, request: Request) -> Response:
        base = f"{self.url}/{request.path_params['tenant']}"
        return JSONResponse(
            {
                "token_endpoint": f"{base}/oauth2/v2.0/token",
                "authorization_endpoint": f"{base}/oauth2/v2.0/authorize",
                "issuer": f"{base}/v2.0",
            }
        )

    async def _token(self, request: Request) -> Response:
        self.asked += 1
        if self.away:
            return JSONResponse({"error": "temporarily_unavailable"}, 503)
        asked = dict(parse_qsl((await request.body()).decode()))
        if request.path_params["tenant"] != self.tenant:
            return _refusal("invalid_request", 90002, "Tenant not found.")
        if asked.get("client_id") != self.client:
            return _refusal("unauthorized_client", 700016, "Application was not found.")
        secret = self._secret()
        if secret is None:
            return _refusal("invalid_client", 7000222, "The provided client secret keys expired.")
        if asked.get("client_secret") != secret:
            return _refusal("invalid_client", 7000215, "Invalid client secret provided.")
        text, lasts = self.give()
        return JSONResponse({"token_type": "Bearer", "expires_in": lasts, "access_token": text})


def _refusal(error: str, code: int, words: str) -> Response:
    description = f"AADSTS{code}: {words} Trace ID: {uuid4()} Correlation ID: {uuid4()}"
    body = {"error": error, "error_description": description, "error_codes": [code]}
    return JSONResponse(body, 401)


def _certify(key_file: Path, certificate_file: Path) -> None:
    """Write a key, and a certificate of it for loopback."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    encoding = serialization.Encoding.PEM
    key_file.touch(0o600)
    key_file.write_bytes(
        key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    certificate_file.write_bytes(certificate.public_bytes(encoding))
