"""A local OpenID provider: discovery, authorization, token, keys; as strict as the real ones.

Whoever asks /authorize is signed in at once, as `claims` says.
"""

from __future__ import annotations

import json
import secrets
import threading
import time
from base64 import urlsafe_b64encode
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from joserfc import jwt
from joserfc.jwk import RSAKey

CLIENT = "orchestrator"
SHARED = "hush-hush-hush"


class OpenIdServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.issuer = f"http://127.0.0.1:{self.server_port}"
        self.key = RSAKey.generate_key(2048, {"kid": "1", "use": "sig"})
        self.signs_with = self.key
        self.claims: dict[str, Any] = {"email": "ada@example.org", "email_verified": True}
        self.changed: dict[str, Any] = {}
        """Claims that it lies about."""
        self.codes: dict[str, dict[str, str]] = {}

    def __enter__(self) -> OpenIdServer:
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    def token(self, asked: dict[str, str]) -> str:
        now = int(time.time())
        claims = {
            "iss": self.issuer,
            "aud": asked["client_id"],
            "sub": "1",
            "nonce": asked["nonce"],
            "iat": now,
            "exp": now + 300,
            **self.claims,
            **self.changed,
        }
        return jwt.encode({"alg": "RS256", "kid": "1"}, claims, self.signs_with)


class _Handler(BaseHTTPRequestHandler):
    server: OpenIdServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Write nothing."""

    def do_GET(self) -> None:
        parts, server = urlsplit(self.path), self.server
        match parts.path:
            case "/.well-known/openid-configuration":
                self._answer(
                    {
                        "issuer": server.issuer,
                        "authorization_endpoint": f"{server.issuer}/authorize",
                        "token_endpoint": f"{server.issuer}/token",
                        "jwks_uri": f"{server.issuer}/keys",
                    }
                )
            case "/keys":
                self._answer({"keys": [server.key.as_dict(private=False)]})
            case "/authorize":
                self._authorize({name: one[0] for name, one in parse_qs(parts.query).items()})
            case _:
                self._answer({"error": "not_found"}, 404)

    def _authorize(self, asked: dict[str, str]) -> None:
        right = asked["response_type"] == "code" and asked["code_challenge_method"] == "S256"
        if not right or asked["client_id"] != CLIENT or "openid" not in asked["scope"].split():
            self._answer({"error": "invalid_request"}, 400)
            return
        code = secrets.token_urlsafe(16)
        self.server.codes[code] = asked
        self.send_response(302)
        query = urlencode({"code": code, "state": asked["state"]})
        self.send_header("Location", f"{asked['redirect_uri']}?{query}")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        form = {name: one[0] for name, one in parse_qs(body).items()}
        asked = self.server.codes.pop(form.get("code", ""), None)  # a code counts once
        challenge = sha256(form.get("code_verifier", "").encode()).digest()
        if (
            asked is None
            or form.get("client_secret") != SHARED
            or form.get("redirect_uri") != asked["redirect_uri"]
            or urlsafe_b64encode(challenge).decode().rstrip("=") != asked["code_challenge"]
        ):
            self._answer({"error": "invalid_grant"}, 400)
            return
        self._answer({"token_type": "Bearer", "id_token": self.server.token(asked)})

    def _answer(self, body: dict[str, Any], status: int = 200) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
