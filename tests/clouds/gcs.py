"""Google Cloud Storage's XML API on loopback, for one service account.

What is known: https://cloud.google.com/storage/docs/xml-api/reference-methods, tokens that a service
account signs itself, and signed addresses of version 4.
"""

from __future__ import annotations

import base64
import hashlib
import json
from datetime import datetime, timedelta
from urllib.parse import parse_qsl, quote, urlsplit

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from tests.clouds.plain_store import Kept, PlainStoreServer, quoted, text, xml
from tests.clouds.store_wire import Asked, Said

HOST = "storage.googleapis.com"
EMAIL = "trainer@example.iam.gserviceaccount.com"


class GoogleStoreServer(PlainStoreServer):
    """One bucket, and the service account that may use it."""

    def __init__(self, bucket: str = "models", port: int = 0) -> None:
        super().__init__(bucket, port)
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)

    def credentials(self) -> str:
        """Return the service account's key file."""
        pem = self._key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        return json.dumps(
            {
                "type": "service_account",
                "client_email": EMAIL,
                "private_key_id": "1",
                "private_key": pem.decode(),
                "token_uri": f"{self.url}/token",
            }
        )

    def answer(self, asked: Asked) -> Said:
        """Do what was asked."""
        if refusal := self._refusal(asked):
            return refusal
        bucket, _, key = asked.path.removeprefix("/").partition("/")
        if bucket != self.bucket:
            return self.refused(404, "NoSuchBucket", "The specified bucket does not exist.")
        if asked.method in self.denied:
            message = f"{EMAIL} does not have storage.objects.create access to the bucket."
            return self.refused(403, "AccessDenied", message)
        if not key:
            return self._list(asked)
        kept = self.kept.get(key)
        if asked.method == "PUT":
            if not self.condition_holds(asked, kept):
                return self.refused(412, "PreconditionFailed", "At least one condition failed.")
            self.kept[key] = kept = Kept(asked.body)
            return Said(200, b"", {"ETag": kept.etag, "x-goog-generation": str(kept.generation)})
        if kept is None:
            return self.refused(404, "NoSuchKey", "The specified key does not exist.")
        if asked.method == "DELETE":
            del self.kept[key]
            return Said(204)
        return self.read(asked, kept)

    def _list(self, asked: Asked) -> Said:
        size = int(asked.query.get("max-keys", 1000))
        keys, prefixes, after = self.listed(
            asked, asked.query.get("continuation-token", asked.query.get("start-after", "")), size
        )
        rows = [
            xml(
                "Contents",
                text("Key", key),
                text("Size", len(self.kept[key].content)),
                text("LastModified", self.kept[key].modified.isoformat().replace("+00:00", "Z")),
                text("ETag", self.kept[key].etag),
            )
            for key in keys
        ]
        rows += [xml("CommonPrefixes", text("Prefix", prefix)) for prefix in prefixes]
        rows += [text("NextContinuationToken", after)] if after else []
        body = xml("ListBucketResult", text("IsTruncated", str(bool(after)).lower()), *rows)
        return Said(200, body.encode(), {"Content-Type": "application/xml"})

    def _refusal(self, asked: Asked) -> Said | None:
        if "X-Goog-Signature" in asked.query:
            return self._wrong_address(asked)
        token = asked.headers.get("authorization", "").removeprefix("Bearer ")
        signed, _, signature = token.rpartition(".")
        if signed and self._is_signed(signed, _decoded(signature)):
            claims = json.loads(_decoded(signed.split(".")[1]))
            if claims["iss"] == EMAIL and claims["exp"] > self.now().timestamp():
                return None
        return self.refused(401, "AuthenticationRequired", "Authentication required.")

    def _wrong_address(self, asked: Asked) -> Said | None:
        parts, query = urlsplit(asked.target), asked.query
        since = datetime.fromisoformat(query["X-Goog-Date"])
        if self.now() > since + timedelta(seconds=int(query["X-Goog-Expires"])):
            return self.refused(400, "ExpiredToken", "The provided token has expired.")
        pairs = sorted(
            (quote(name, safe="-_.~"), quote(value, safe="-_.~"))
            for name, value in parse_qsl(parts.query, keep_blank_values=True)
            if name != "X-Goog-Signature"
        )
        names = query["X-Goog-SignedHeaders"].split(";")
        # As Google does: extension headers that are sent have to be signed.
        if {name for name in asked.headers if name.startswith("x-goog-")} - set(names):
            return self.refused(400, "MalformedSecurityHeader", "Header was not signed.")
        # The library signs Google's own host, wherever a stand-in for it listens.
        sent = {**asked.headers, "host": HOST}
        canonical = "\n".join(
            [
                asked.method,
                quoted(asked.path),
                "&".join(f"{name}={value}" for name, value in pairs),
                *(f"{name}:{sent.get(name, '')}" for name in names),
                "",
                ";".join(names),
                "UNSIGNED-PAYLOAD",
            ]
        )
        email, _, scope = query["X-Goog-Credential"].partition("/")
        digest = hashlib.sha256(canonical.encode()).hexdigest()
        signed = f"GOOG4-RSA-SHA256\n{query['X-Goog-Date']}\n{scope}\n{digest}"
        signature = bytes.fromhex(query["X-Goog-Signature"])
        if email == EMAIL and self._is_signed(signed, signature):
            return None
        return self.refused(403, "SignatureDoesNotMatch", "Access denied.")

    def _is_signed(self, text: str, signature: bytes) -> bool:
        public = self._key.public_key()
        try:
            public.verify(signature, text.encode(), padding.PKCS1v15(), hashes.SHA256())
        except InvalidSignature:
            return False
        return True


def _decoded(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
