"""A small server that speaks the Hub's upload API as huggingface_hub 2.4 uses it.

Large files come by Xet (xorbs of chunks, and shards that say which chunks make a file) or by LFS.
A commit that names a large file whose bytes never came is refused, as the Hub does.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from uuid import uuid4

import pyarrow

TOKEN = "hf_good"  # noqa: S105 - of this server alone
OWNER = "ada"
LARGE = (".safetensors", ".gguf")


class Hub(ThreadingHTTPServer):
    """Repositories and what was stored, by name and by hash."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        # Xet keeps on disk which chunks an address has: another hub may have had this port.
        self.cas = f"/cas-{uuid4()}"
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.visibility: dict[str, Any] = {}
        self.commits: list[str] = []
        self.asked: list[str] = []
        """Every request, as METHOD /path."""
        self.stored: dict[str, bytes] = {}
        """Large files by their SHA-256."""
        self.xorbs: dict[str, list[bytes]] = {}
        self.failures: dict[str, int] = {}
        """How often a path that begins so is answered with 503."""
        self.forbidden: list[str] = []
        """What every token is answered 403 for."""
        self.role = "write"


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        """Print nothing."""

    def do_GET(self) -> None:
        self._serve()

    def do_HEAD(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def do_PUT(self) -> None:
        self._serve()

    def _serve(self) -> None:
        body = self._body()
        path = self.path.split("?")[0].removeprefix(self.server.cas)
        self.server.asked.append(f"{self.command} {path}")
        for start, left in self.server.failures.items():
            if path.startswith(start) and left:
                self.server.failures[start] -= 1
                return self._answer(503, {"error": "Service Unavailable"})
        if path in self.server.forbidden:
            return self._answer(403, {"error": "You don't have the rights to do this"})
        signed = path.startswith("/lfs/")  # such an address is its own proof
        if not signed and self.headers.get("Authorization") not in {
            f"Bearer {TOKEN}",
            "Bearer xet",
        }:
            return self._answer(401, {"error": "Invalid credentials in Authorization header"})
        for (method, pattern), answer in ROUTES.items():
            if method == self.command and (match := re.fullmatch(pattern, path)):
                return self._answer(*answer(self, body, **match.groupdict()))
        return self._answer(404, {"error": f"no route {path}"})

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _answer(self, status: int, value: Any) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    # The Hub ----------------------------------------------------------------------------------

    def whoami(self, body: bytes) -> tuple[int, Any]:
        auth = {"accessToken": {"role": self.server.role}}
        return 200, {"type": "user", "name": OWNER, "orgs": [{"name": "lab"}], "auth": auth}

    def create(self, body: bytes) -> tuple[int, Any]:
        asked = json.loads(body)
        name = f"{asked.get('organization') or OWNER}/{asked['name']}"
        if name in self.server.repositories:
            error = "You already created this model repo"
            return 409, {"error": error, "url": f"{self.server.url}/{name}"}
        self.server.repositories[name] = {}
        self.server.visibility[name] = asked.get("visibility")
        return 200, {"url": f"{self.server.url}/{name}", "name": name}

    def validate(self, body: bytes) -> tuple[int, Any]:
        return 200, {"errors": [], "warnings": []}

    def preupload(self, body: bytes, repo: str) -> tuple[int, Any]:
        if repo not in self.server.repositories:
            return 404, {"error": "Repository not found"}
        paths = [file["path"] for file in json.loads(body)["files"]]
        modes = {path: "lfs" if path.endswith(LARGE) else "regular" for path in paths}
        files = [{"path": p, "uploadMode": m, "shouldIgnore": False} for p, m in modes.items()]
        return 200, {"files": files}

    def commit(self, body: bytes, repo: str) -> tuple[int, Any]:
        files = {}
        for entry in map(json.loads, body.splitlines()):
            value = entry["value"]
            if entry["key"] == "header":
                self.server.commits.append(value["summary"])
            elif entry["key"] == "file":
                assert value["encoding"] == "base64"
                files[value["path"]] = base64.b64decode(value["content"])
            elif value["oid"] not in self.server.stored:
                return 400, {"error": f"{value['path']}: its content was never uploaded"}
            else:
                files[value["path"]] = self.server.stored[value["oid"]]
        self.server.repositories[repo] |= files
        oid = hashlib.sha256(body).hexdigest()[:40]
        url = f"{self.server.url}/{repo}/commit/{oid}"
        return 200, {"success": True, "commitOid": oid, "commitUrl": url, "hookOutput": ""}

    # LFS --------------------------------------------------------------------------------------

    def batch(self, body: bytes, repo: str) -> tuple[int, Any]:
        objects = [
            {**asked, "actions": {"upload": {"href": f"{self.server.url}/lfs/{asked['oid']}"}}}
            for asked in json.loads(body)["objects"]
        ]
        return 200, {"transfer": "basic", "objects": objects}

    def store(self, body: bytes, oid: str) -> tuple[int, Any]:
        assert hashlib.sha256(body).hexdigest() == oid
        self.server.stored[oid] = body
        return 200, {}

    # Xet --------------------------------------------------------------------------------------

    def xet_token(self, body: bytes, repo: str) -> tuple[int, Any]:
        expires = int(time.time()) + 3600
        return 200, {
            "accessToken": "xet",
            "casUrl": self.server.url + self.server.cas,
            "exp": expires,
        }

    def unknown(self, body: bytes, **_: str) -> tuple[int, Any]:
        return 404, {"error": "not seen before"}

    def xorb(self, body: bytes, hash: str) -> tuple[int, Any]:
        self.server.xorbs[hash] = list(chunks_of(body))
        return 200, {"was_inserted": True}

    def shard(self, body: bytes) -> tuple[int, Any]:
        for pieces in files_of(body):
            content = b"".join(
                chunk for xorb, start, end in pieces for chunk in self.server.xorbs[xorb][start:end]
            )
            self.server.stored[hashlib.sha256(content).hexdigest()] = content
        return 200, {"result": 1}


REPO = r"(?P<repo>[\w.-]+/[\w.-]+)"
ROUTES = {
    ("GET", r"/api/whoami-v2"): Handler.whoami,
    ("POST", r"/api/repos/create"): Handler.create,
    ("POST", r"/api/validate-yaml"): Handler.validate,
    ("POST", rf"/api/models/{REPO}/preupload/main"): Handler.preupload,
    ("POST", rf"/api/models/{REPO}/commit/main"): Handler.commit,
    ("POST", rf"/{REPO}\.git/info/lfs/objects/batch"): Handler.batch,
    ("PUT", r"/lfs/(?P<oid>[0-9a-f]{64})"): Handler.store,
    ("GET", rf"/api/models/{REPO}/xet-write-token/main"): Handler.xet_token,
    ("GET", r"/v1/chunks/[\w-]+/(?P<hash>\w+)"): Handler.unknown,
    ("POST", r"/v1/xorbs/[\w-]+/(?P<hash>\w+)"): Handler.xorb,
    ("POST", r"(/v1)?/shards"): Handler.shard,
}


def chunks_of(xorb: bytes) -> Iterator[bytes]:
    """Yield the chunks of a xorb: 8 bytes of version, sizes and compression before each."""
    at = 0
    while at + 8 <= len(xorb) and xorb[at] == 0:
        packed, kind = int.from_bytes(xorb[at + 1 : at + 4], "little"), xorb[at + 4]
        size = int.from_bytes(xorb[at + 5 : at + 8], "little")
        data = xorb[at + 8 : at + 8 + packed]
        at += 8 + packed
        plain = data if kind == 0 else pyarrow.decompress(data, size, "lz4", asbytes=True)
        yield regrouped(plain) if kind == 2 else plain


def regrouped(data: bytes) -> bytes:
    """Return bytes in their order, which came as all first ones of four, all second ones, …"""
    whole = bytearray(len(data))
    at = 0
    for first in range(4):
        count = len(range(first, len(data), 4))
        whole[first::4] = data[at : at + count]
        at += count
    return bytes(whole)


def files_of(shard: bytes) -> Iterator[list[tuple[str, int, int]]]:
    """Yield the files in a shard, each as ranges of chunks of xorbs; entries have 48 bytes."""
    at = 48
    while shard[at : at + 32] != b"\xff" * 32:
        flags, count = struct.unpack_from("<II", shard, at + 32)
        entries = [shard[at + 48 * i : at + 48 * (i + 1)] for i in range(1, count + 1)]
        yield [(hash_of(entry), *struct.unpack_from("<II", entry, 40)) for entry in entries]
        verified, described = flags >> 31 & 1, flags >> 30 & 1
        at += 48 * (1 + count + verified * count + described)


def hash_of(entry: bytes) -> str:
    """Return a hash as Xet writes it in hexadecimal: four numbers of eight bytes."""
    return "".join(f"{number:016x}" for number in struct.unpack_from("<4Q", entry))


@contextmanager
def running_hub() -> Iterator[Hub]:
    """Serve on a loopback port."""
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()
