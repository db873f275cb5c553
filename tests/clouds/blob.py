"""Azure Blob Storage on loopback: one account with one key and one container.

What is known: https://learn.microsoft.com/rest/api/storageservices/blob-service-rest-api, with the
signatures of an account's key and of addresses that it shares.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Mapping
from datetime import datetime
from email.utils import format_datetime
from urllib.parse import urlsplit

from tests.clouds.plain_store import Kept, PlainStoreServer, text, xml
from tests.clouds.store_wire import Asked, Said

ACCOUNT = "trainerstore"
KEY = base64.b64encode(b"a key of the account, 32 bytes or more of it").decode()
SIGNED = (
    *(
        "content-encoding",
        "content-language",
        "content-length",
        "content-md5",
        "content-type",
        "date",
    ),
    *("if-modified-since", "if-match", "if-none-match", "if-unmodified-since", "range"),
)


class BlobServer(PlainStoreServer):
    """The account."""

    def environ(self) -> dict[str, str]:
        """Return the variables by which it is used."""
        endpoint = f"{self.url}/{ACCOUNT}"
        return {
            "AZURE_STORAGE_CONNECTION_STRING": f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};"
            f"AccountKey={KEY};BlobEndpoint={endpoint};"
        }

    def answer(self, asked: Asked) -> Said:
        """Do what was asked."""
        if refusal := self._refusal(asked):
            return refusal
        _, account, container, *parts = [*asked.path.split("/"), "", ""]
        key = "/".join(parts[:-2]) if len(parts) > 2 else parts[0]
        if account != ACCOUNT or container != self.bucket:
            if asked.query.get("comp") == "batch":
                return self._batch(asked)
            return self.refused(404, "ContainerNotFound", "The specified container does not exist.")
        if asked.method in self.denied:
            message = (
                "This request is not authorized to perform this operation using this permission."
            )
            return self.refused(403, "AuthorizationPermissionMismatch", message)
        if not key:
            return self._batch(asked) if asked.query.get("comp") == "batch" else self._list(asked)
        return self._blob(asked, key)

    def _blob(self, asked: Asked, key: str) -> Said:
        kept = self.kept.get(key)
        if asked.method == "PUT":
            if asked.headers.get("x-ms-blob-type") != "BlockBlob":
                return self.refused(400, "MissingRequiredHeader", "x-ms-blob-type")
            if not self.condition_holds(asked, kept):
                if asked.headers.get("if-none-match") == "*":
                    return self.refused(
                        409, "BlobAlreadyExists", "The specified blob already exists."
                    )
                return self.refused(412, "ConditionNotMet", "The condition is not met.")
            self.kept[key] = kept = Kept(asked.body)
            modified = format_datetime(kept.modified, usegmt=True)
            return Said(201, b"", {"ETag": kept.etag, "Last-Modified": modified})
        if kept is None:
            return self.refused(404, "BlobNotFound", "The specified blob does not exist.")
        if asked.method == "DELETE":
            del self.kept[key]
            return Said(202)
        return self.read(asked, kept)

    def _batch(self, asked: Asked) -> Said:
        """Answer many deletions in one request, each as if it had come alone."""
        boundary = asked.headers["content-type"].partition("boundary=")[2]
        answers = []
        for part in asked.body.decode().split(f"--{boundary}")[1:-1]:
            found = re.search(r"Content-ID: (\S+).*?DELETE (\S+)", part, re.DOTALL)
            assert found, part
            one = Asked("DELETE", found[2], {}, b"")
            key = one.path.split(f"/{self.bucket}/", 1)[1]
            status = self._blob(one, key).status
            answers.append(
                f"--{boundary}\r\nContent-Type: application/http\r\nContent-ID: {found[1]}\r\n\r\n"
                f"HTTP/1.1 {status} X\r\n\r\n\r\n"
            )
        body = "".join(answers) + f"--{boundary}--\r\n"
        return Said(202, body.encode(), {"Content-Type": f"multipart/mixed; boundary={boundary}"})

    def _list(self, asked: Asked) -> Said:
        size = int(asked.query.get("maxresults", 5000))
        keys, prefixes, after = self.listed(asked, asked.query.get("marker", ""), size)
        rows = [
            xml(
                "Blob",
                text("Name", key),
                xml(
                    "Properties",
                    text("Last-Modified", format_datetime(self.kept[key].modified, usegmt=True)),
                    text("Etag", self.kept[key].etag),
                    text("Content-Length", len(self.kept[key].content)),
                    text("Content-Type", "application/octet-stream"),
                    text("BlobType", "BlockBlob"),
                ),
            )
            for key in keys
        ]
        rows += [xml("BlobPrefix", text("Name", prefix)) for prefix in prefixes]
        body = xml("EnumerationResults", xml("Blobs", *rows), text("NextMarker", after))
        return Said(200, body.encode(), {"Content-Type": "application/xml"})

    def refused(self, status: int, code: str, message: str = "") -> Said:
        """Return an error as Azure writes it."""
        said = super().refused(status, code, message)
        return Said(status, said.body, {**said.headers, "x-ms-error-code": code})

    def _refusal(self, asked: Asked) -> Said | None:
        if "sig" in asked.query:
            return self._wrong_share(asked)
        expected = f"SharedKey {ACCOUNT}:{_hmac(shared_key_text(asked))}"
        if asked.headers.get("authorization") == expected:
            return None
        message = "Server failed to authenticate the request. Make sure the Authorization is right."
        return self.refused(403, "AuthenticationFailed", message)

    def _wrong_share(self, asked: Asked) -> Said | None:
        query = asked.query
        # https://learn.microsoft.com/rest/api/storageservices/create-service-sas#version-2020-12-06-and-later
        key = asked.path.removeprefix(f"/{ACCOUNT}")
        lines = [
            *(query.get(name, "") for name in ("sp", "st", "se")),
            f"/blob/{ACCOUNT}{key}",
            *(query.get(name, "") for name in ("si", "sip", "spr", "sv", "sr")),
            *(
                query.get(name, "")
                for name in ("sst", "ses", "rscc", "rscd", "rsce", "rscl", "rsct")
            ),
        ]
        if _hmac("\n".join(lines)) != query["sig"]:
            return self.refused(403, "AuthenticationFailed", "Signature did not match.")
        if self.now() > datetime.fromisoformat(query["se"]):
            return self.refused(403, "AuthenticationFailed", "Signature not valid in this time.")
        needed = {"GET": "r", "HEAD": "r", "PUT": "w", "DELETE": "d"}[asked.method]
        if needed not in query["sp"]:
            return self.refused(403, "AuthorizationPermissionMismatch", "Not with this permission.")
        return None


def shared_key_text(asked: Asked) -> str:
    """Return what an account's key signs of a request."""
    headers: Mapping[str, str] = asked.headers
    length = {"content-length": ""} if headers.get("content-length", "0") == "0" else {}
    dated = {"date": ""} if "x-ms-date" in headers else {}
    fields = {**headers, **length, **dated}
    own = sorted((name, value) for name, value in headers.items() if name.startswith("x-ms-"))
    lines = [asked.method, *(fields.get(name, "") for name in SIGNED)]
    lines += [f"{name}:{value}" for name, value in own]
    resource = f"/{ACCOUNT}{urlsplit(asked.target).path}"
    lines.append(resource)
    lines += [f"{name.lower()}:{value}" for name, value in sorted(asked.query.items())]
    return "\n".join(lines)


def _hmac(what: str) -> str:
    digest = hmac.new(base64.b64decode(KEY), what.encode(), hashlib.sha256).digest()
    return base64.b64encode(digest).decode()
