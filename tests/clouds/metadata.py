"""What machines in a cloud are told by its metadata service, and stores that believe it."""

from __future__ import annotations

import json

from tests.clouds.store_wire import Asked, LocalStoreServer, Said


class Metadata(LocalStoreServer):
    """The metadata services of all three clouds."""

    def __init__(self) -> None:
        super().__init__()
        self.keys = {"Token": "session/+="}
        """What the role of an instance profile has."""

    def answer(self, asked: Asked) -> Said:
        """Answer."""
        if asked.path == "/latest/api/token":
            return Said(200 if asked.method == "PUT" else 405, b"T")
        if asked.path.startswith("/latest/meta-data/iam/security-credentials/"):
            if asked.headers.get("x-aws-ec2-metadata-token") != "T":
                return Said(401)
            role = asked.path.rpartition("/")[2]
            return Said(200, json.dumps(self.keys).encode() if role == "trainer" else b"trainer")
        flavours = {"metadata-flavor": "Google", "metadata": "true"}
        if any(asked.headers.get(name) == value for name, value in flavours.items()):
            return Said(200, b'{"access_token": "bearer-1"}')
        return Said(403)


class Bearers(LocalStoreServer):
    """A store that takes a token."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[str, tuple[bytes, object]] = {}
        """Content and headers by path."""

    def answer(self, asked: Asked) -> Said:
        """Answer."""
        if asked.headers.get("authorization") != "Bearer bearer-1":
            return Said(401)
        if asked.method == "PUT":
            self.kept[asked.path] = asked.body, asked.headers
        elif asked.method == "DELETE":
            return Said(204 if self.kept.pop(asked.path, None) else 404)
        elif asked.path not in self.kept:
            return Said(404)
        return Said(200, self.kept[asked.path][0])
