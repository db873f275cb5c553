"""What a machine in a cloud may do by its own role: keys from the metadata service, and what they sign.

An instance profile at S3, a service account at Google Cloud Storage, a managed identity at Azure
Blob; by HTTP alone. Standard library only: the agent of a mailbox has this file with it.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import time
import urllib.request
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlsplit

METADATA = "http://169.254.169.254"
FRESH_SECONDS = 240.0  # of a token: metadata services hand out new ones five minutes before
METADATA_SECONDS = 10.0  # for an answer; where there is no such service, nothing ever comes


class CloudRole:
    """The role of this machine, at the stores of its cloud."""

    def __init__(self, scheme: str, options: Mapping[str, Any]) -> None:
        """Prepare; nothing is asked for yet.

        Args:
            scheme: s3, gs or az.
            options: `region`, `endpoint` and `account_name`, as far as the store needs them.
        """
        self._scheme = scheme
        self._options = options
        self._known: Any = None
        self._known_at = 0.0

    def address(self, bucket: str, key: str) -> str:
        """Return the URL of an object."""
        return f"{self._base(bucket)}/{quote(key, safe='/-_.~')}"

    def headers(self, method: str, url: str, sha256: str) -> dict[str, str]:
        """Return what has to go along with a request.

        Args:
            method: of HTTP.
            url: of the object.
            sha256: of what is sent, in hexadecimal digits.

        Raises:
            OSError: the metadata service does not answer, or the machine has no role.
            HTTPException: what answers is no HTTP.
            LookupError, TypeError, ValueError: it answers something else.
        """
        if not self._known or time.monotonic() - self._known_at > FRESH_SECONDS:
            self._known, self._known_at = self._asked_for(), time.monotonic()
        if self._scheme == "s3":
            return _signed(method, url, sha256, self._known, self._region())
        headers = {"Authorization": f"Bearer {self._known}"}
        if self._scheme == "az":
            headers |= {"x-ms-version": "2021-08-06", "x-ms-blob-type": "BlockBlob"}
        return headers

    def forget(self) -> None:
        """Ask for keys anew: they may have been replaced."""
        self._known = None

    def _base(self, bucket: str) -> str:
        endpoint = str(self._options.get("endpoint") or "").rstrip("/")
        if self._scheme == "az":
            account = self._options["account_name"]
            endpoint = endpoint or f"https://{account}.blob.core.windows.net"
        elif self._scheme == "gs":
            endpoint = endpoint or "https://storage.googleapis.com"
        elif not endpoint and "." not in bucket:
            return f"https://{bucket}.s3.{self._region()}.amazonaws.com"
        return f"{endpoint or f'https://s3.{self._region()}.amazonaws.com'}/{bucket}"

    def _region(self) -> str:
        return str(self._options.get("region") or "us-east-1")

    def _asked_for(self) -> Any:
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


def _asked(method: str, url: str, headers: Mapping[str, str]) -> bytes:
    data = b"" if method == "PUT" else None
    request = urllib.request.Request(url, data, dict(headers), method=method)  # noqa: S310
    with urllib.request.urlopen(request, timeout=METADATA_SECONDS) as answer:  # noqa: S310
        return bytes(answer.read())


def _signed(
    method: str, url: str, sha256: str, keys: Mapping[str, str], region: str
) -> dict[str, str]:
    """Return the headers of a request to S3.

    See https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html.
    """
    now, place = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()), urlsplit(url)
    headers = {
        "host": place.netloc,
        "x-amz-content-sha256": sha256,
        "x-amz-date": now,
        "x-amz-security-token": keys["Token"],
    }
    names = ";".join(headers)
    lines = "".join(f"{name}:{text}\n" for name, text in headers.items())
    asked = "\n".join([method, place.path, "", lines, names, sha256])
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
