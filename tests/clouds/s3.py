"""S3 on loopback: moto, behind what moto leaves out.

Moto keeps the objects. In front of it stand the checks that it does not make: the signature, the
age of a signed address, unsigned x-amz headers, and the checksums of what is sent.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from tests.clouds.store_wire import Asked, LocalStoreServer, Said

KEY, SECRET, REGION = (
    "AKIAIOSFODNN7EXAMPLE",
    "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    "eu-west-1",
)
UNSIGNED = "UNSIGNED-PAYLOAD"


class S3Server(LocalStoreServer):
    """One account with one key and one bucket."""

    key_id, secret = KEY, SECRET

    def __init__(self, bucket: str = "models", port: int = 0) -> None:
        super().__init__(port)
        from moto.s3.models import s3_backends

        s3_backends.reset()
        self.bucket = bucket
        self.now = lambda: datetime.now(UTC)
        self.denied: set[str] = set()
        """Methods that the key may not use."""
        self._moto("PUT", f"/{bucket}", _located(), {})

    def environ(self) -> dict[str, str]:
        """Return the variables by which it is used."""
        return {
            "AWS_ENDPOINT_URL_S3": self.url,
            "AWS_ACCESS_KEY_ID": self.key_id,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_REGION": REGION,
        }

    def content(self, key: str) -> bytes | None:
        """Return what an object holds."""
        found = self._object(key)
        return None if found is None else bytes(found.value)

    def names(self) -> list[str]:
        """Return the keys of all objects, sorted."""
        return sorted(self._bucket().keys)

    def flip(self, key: str) -> None:
        """Damage an object in its middle, as no store should."""
        found = self._object(key)
        content = bytearray(found.value)
        content[len(content) // 2] ^= 1
        found.value = bytes(content)

    def unfinished(self) -> int:
        """Return how many uploads in parts are neither complete nor aborted."""
        return len(self._bucket().multiparts)

    def answer(self, asked: Asked) -> Said:
        """Check what moto does not, and let it answer."""
        if refusal := self._refusal(asked):
            return refusal
        headers = {name: value for name, value in asked.headers.items() if name != "host"}
        return self._moto(asked.method, asked.target, asked.body, headers)

    def _refusal(self, asked: Asked) -> Said | None:
        signed = signature_of(asked)
        if signed is None:
            return self.refused(403, "AccessDenied", "Access Denied")
        if signed["key"] != self.key_id:
            return self.refused(
                403,
                "InvalidAccessKeyId",
                "The AWS Access Key Id you provided does not exist in our records.",
            )
        if asked.query.get("X-Amz-Expires"):
            since = datetime.fromisoformat(asked.query["X-Amz-Date"])
            lasts = timedelta(seconds=int(asked.query["X-Amz-Expires"]))
            if self.now() > since + lasts:
                return self.refused(403, "AccessDenied", "Request has expired")
        if expected_signature(asked, signed, self.secret) != signed["signature"]:
            return self.refused(
                403,
                "SignatureDoesNotMatch",
                "The request signature we calculated does not match the signature you provided.",
            )
        unsigned = {name for name in asked.headers if name.startswith("x-amz-")}
        if unsigned - set(signed["headers"].split(";")):
            return self.refused(
                403, "AccessDenied", "There were headers present in the request not signed"
            )
        if asked.method in self.denied:
            return self.refused(403, "AccessDenied", "Access Denied")
        return self._wrong_sum(asked)

    def _wrong_sum(self, asked: Asked) -> Said | None:
        digest = hashlib.sha256(asked.body)
        said = asked.headers.get("x-amz-content-sha256", UNSIGNED)
        if said != UNSIGNED and said != digest.hexdigest():
            return self.refused(400, "XAmzContentSHA256Mismatch")
        said = asked.headers.get("x-amz-checksum-sha256", "")
        if said and said != base64.b64encode(digest.digest()).decode():
            return self.refused(400, "BadDigest", "The SHA256 you specified did not match.")
        said = asked.headers.get("x-amz-checksum-crc64nvme", "")
        if said and said != base64.b64encode(crc64nvme(asked.body).to_bytes(8)).decode():
            return self.refused(400, "BadDigest", "The CRC64NVME you specified did not match.")
        return None

    def _moto(self, method: str, target: str, body: bytes, headers: dict[str, str]) -> Said:
        from botocore.awsrequest import AWSPreparedRequest
        from botocore.compat import HTTPHeaders
        from moto.core.botocore_stubber import BotocoreStubber

        sent = HTTPHeaders()
        for name, value in headers.items():
            sent[name] = value
        url = f"https://s3.{REGION}.amazonaws.com{target}"
        found = BotocoreStubber().process_request(
            AWSPreparedRequest(method, url, sent, body, stream_output=False)
        )
        if found is None:
            return self.refused(501, "NotImplemented", f"{method} {target}")
        status, given, content = found
        answer = content.encode() if isinstance(content, str) else bytes(content or b"")
        return Said(int(status), answer, {name: str(value) for name, value in given.items()})

    def _bucket(self) -> Any:
        from moto.core import DEFAULT_ACCOUNT_ID
        from moto.s3.models import s3_backends

        return s3_backends[DEFAULT_ACCOUNT_ID]["aws"].buckets[self.bucket]

    def _object(self, key: str) -> Any:
        return self._bucket().keys.get(key)


def crc64nvme(content: bytes) -> int:
    """Return the checksum that S3 keeps by default, of a small content: Python is slow at it."""
    value = (1 << 64) - 1
    for byte in content:
        value = _CRC[(value ^ byte) & 0xFF] ^ (value >> 8)
    return value ^ ((1 << 64) - 1)


def _crc_table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (0x9A6C9329AC4BC9B5 if value & 1 else 0)
        table.append(value)
    return table


_CRC = _crc_table()


def signature_of(asked: Asked) -> dict[str, str] | None:
    """Return key, scope, headers, date and signature of a request, or None if it has none.

    See https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-auth-using-authorization-header.html.
    """
    query = asked.query
    if "X-Amz-Signature" in query:
        key, _, scope = query["X-Amz-Credential"].partition("/")
        return {
            "key": key,
            "scope": scope,
            "headers": query["X-Amz-SignedHeaders"],
            "date": query["X-Amz-Date"],
            "signature": query["X-Amz-Signature"],
        }
    _, _, words = asked.headers.get("authorization", "").partition("AWS4-HMAC-SHA256 ")
    if not words:
        return None
    parts = dict(part.strip().split("=", 1) for part in words.split(","))
    key, _, scope = parts["Credential"].partition("/")
    return {
        "key": key,
        "scope": scope,
        "headers": parts["SignedHeaders"],
        "date": asked.headers["x-amz-date"],
        "signature": parts["Signature"],
    }


def expected_signature(asked: Asked, signed: dict[str, str], secret: str) -> str:
    """Return what the signature of a request has to be."""
    parts = urlsplit(asked.target)
    pairs = sorted(
        (quote(name, safe="-_.~"), quote(value, safe="-_.~"))
        for name, value in parse_qsl(parts.query, keep_blank_values=True)
        if name != "X-Amz-Signature"
    )
    names = signed["headers"].split(";")
    presigned = "X-Amz-Signature" in asked.query
    content = UNSIGNED if presigned else asked.headers.get("x-amz-content-sha256", "")
    canonical = "\n".join(
        [
            asked.method,
            quote(unquote(parts.path), safe="/-_.~"),
            "&".join(f"{name}={value}" for name, value in pairs),
            *(f"{name}:{asked.headers.get(name, '').strip()}" for name in names),
            "",
            ";".join(names),
            content,
        ]
    )
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    text = f"AWS4-HMAC-SHA256\n{signed['date']}\n{signed['scope']}\n{digest}"
    key = f"AWS4{secret}".encode()
    for part in [*signed["scope"].split("/"), text]:
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return key.hex()


def _located() -> bytes:
    return (
        '<CreateBucketConfiguration xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"<LocationConstraint>{REGION}</LocationConstraint></CreateBucketConfiguration>"
    ).encode()
