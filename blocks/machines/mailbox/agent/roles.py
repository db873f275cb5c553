"""A mailbox that the machine's own role opens: S3, Google Cloud Storage or Azure Blob, by HTTP alone."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException
from typing import Any
from urllib.parse import quote, urlsplit

from blocks.machines.mailbox.agent.box import Box

METADATA = "http://169.254.169.254"
FRESH_SECONDS = 240.0  # of a token: metadata services hand out new ones five minutes before
ANSWER_SECONDS = 60.0
GONE = 404


class ByRole(Box):
    """A bucket of the cloud that the machine is in."""

    errors = (OSError, HTTPException, LookupError, TypeError, ValueError)

    def __init__(self, url: str, options: Mapping[str, Any]) -> None:
        self._scheme, _, rest = url.partition("://")
        self._bucket, _, self._prefix = rest.partition("/")
        self._options = options
        self._known: Any = None
        self._known_at = 0.0

    def get(self, name: str) -> bytes | None:
        """Return an object, or None if there is none."""
        return self._sent("GET", name)

    def put(self, name: str, content: bytes) -> None:
        """Make or replace an object."""
        self._sent("PUT", name, content)

    def remove(self, name: str) -> None:
        """Remove an object, if it is there."""
        self._sent("DELETE", name)

    def _sent(self, method: str, name: str, content: bytes | None = None) -> bytes | None:
        url = f"{self._base()}/{quote(f'{self._prefix}/{name}', safe='/-_.~')}"
        if not self._known or time.monotonic() - self._known_at > FRESH_SECONDS:
            self._known, self._known_at = self._role(), time.monotonic()
        headers = self._headers(method, url, content or b"")
        try:
            return _asked(method, url, headers, content)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == GONE and method != "PUT":
                return None
            self._known = None  # it may have been replaced
            raise OSError(f"{method} {name} is answered with HTTP {error.code}") from None

    def _base(self) -> str:
        endpoint = str(self._options.get("endpoint") or "").rstrip("/")
        if self._scheme == "az":
            account = self._options["account_name"]
            endpoint = endpoint or f"https://{account}.blob.core.windows.net"
        elif self._scheme == "gs":
            endpoint = endpoint or "https://storage.googleapis.com"
        elif not endpoint and "." not in self._bucket:
            return f"https://{self._bucket}.s3.{self._region()}.amazonaws.com"
        return f"{endpoint or f'https://s3.{self._region()}.amazonaws.com'}/{self._bucket}"

    def _region(self) -> str:
        return str(self._options.get("region") or "us-east-1")

    def _role(self) -> Any:
        """Return what the metadata service hands out: keys, or a token."""
        if self._scheme == "s3":
            named = os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT", METADATA)
            base = f"{named.rstrip('/')}/latest"
            lasting = {"X-aws-ec2-metadata-token-ttl-seconds": "300"}
            token = {
                "X-aws-ec2-metadata-token": _asked("PUT", f"{base}/api/token", lasting).decode()
            }
            roles = f"{base}/meta-data/iam/security-credentials/"
            role = _asked("GET", roles, token).decode().split()[0]
            return json.loads(_asked("GET", roles + role, token))
        if self._scheme == "gs":
            host = os.environ.get("GCE_METADATA_HOST", "metadata.google.internal")
            url = f"http://{host}/computeMetadata/v1/instance/service-accounts/default/token"
            return json.loads(_asked("GET", url, {"Metadata-Flavor": "Google"}))["access_token"]
        base = os.environ.get("AZURE_IMDS_URL", METADATA)
        what = "api-version=2018-02-01&resource=https://storage.azure.com/"
        url = f"{base}/metadata/identity/oauth2/token?{what}"
        return json.loads(_asked("GET", url, {"Metadata": "true"}))["access_token"]

    def _headers(self, method: str, url: str, content: bytes) -> dict[str, str]:
        if self._scheme == "s3":
            return _signed(method, url, content, self._known, self._region())
        headers = {"Authorization": f"Bearer {self._known}"}
        if self._scheme == "az":
            headers |= {"x-ms-version": "2021-08-06", "x-ms-blob-type": "BlockBlob"}
        return headers


def _asked(
    method: str, url: str, headers: Mapping[str, str], content: bytes | None = None
) -> bytes:
    data = b"" if content is None and method == "PUT" else content
    request = urllib.request.Request(url, data, dict(headers), method=method)  # noqa: S310
    with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as answer:  # noqa: S310
        return bytes(answer.read())


def _signed(
    method: str, url: str, content: bytes, keys: Mapping[str, str], region: str
) -> dict[str, str]:
    """Return the headers of a request to S3.

    See https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html.
    """
    now, place = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()), urlsplit(url)
    digest = hashlib.sha256(content).hexdigest()
    headers = {
        "host": place.netloc,
        "x-amz-content-sha256": digest,
        "x-amz-date": now,
        "x-amz-security-token": keys["Token"],
    }
    names = ";".join(headers)
    lines = "".join(f"{name}:{text}\n" for name, text in headers.items())
    asked = "\n".join([method, place.path, "", lines, names, digest])
    scope = f"{now[:8]}/{region}/s3/aws4_request"
    text = f"AWS4-HMAC-SHA256\n{now}\n{scope}\n{hashlib.sha256(asked.encode()).hexdigest()}"
    key = f"AWS4{keys['SecretAccessKey']}".encode()
    for part in [*scope.split("/"), text]:
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    credential = f"Credential={keys['AccessKeyId']}/{scope}"
    headers["Authorization"] = (
        f"AWS4-HMAC-SHA256 {credential}, SignedHeaders={names}, Signature={key.hex()}"
    )
    return headers
