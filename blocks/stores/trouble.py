"""What a store's refusals mean: which bucket, which right, and what a person can do."""

from __future__ import annotations

import re
from enum import StrEnum

from blocks.stores.access import how_to_set_up
from trainer.config.store_urls import StoreUrl
from trainer.contract.errors import StoreAway, StoreError


class Right(StrEnum):
    """What one may be allowed to do with a store."""

    READ = "read"
    WRITE = "write"
    LIST = "list"
    DELETE = "delete"
    RULES = "read its rules"
    SET_RULES = "set its rules"


RIGHTS = {
    "s3": {
        Right.READ: "s3:GetObject",
        Right.WRITE: "s3:PutObject",
        Right.LIST: "s3:ListBucket",
        Right.DELETE: "s3:DeleteObject",
        Right.RULES: "s3:GetLifecycleConfiguration",
        Right.SET_RULES: "s3:PutLifecycleConfiguration",
    },
    "gs": {
        Right.READ: "storage.objects.get",
        Right.WRITE: "storage.objects.create",
        Right.LIST: "storage.objects.list",
        Right.DELETE: "storage.objects.delete",
        Right.RULES: "storage.buckets.get",
        Right.SET_RULES: "storage.buckets.update",
    },
    "az": {
        Right.READ: "Storage Blob Data Reader (sp=r)",
        Right.WRITE: "Storage Blob Data Contributor (sp=cw)",
        Right.LIST: "Storage Blob Data Reader (sp=l)",
        Right.DELETE: "Storage Blob Data Contributor (sp=d)",
        Right.RULES: "Reader of the storage account",
        Right.SET_RULES: "Contributor of the storage account",
    },
}
"""What each store calls a right."""

_CODE = re.compile(r"<Code>\s*([\w.-]+)\s*</Code>")
_MESSAGE = re.compile(r"<Message>\s*([^<]+?)\s*</Message>")
_STATUS = re.compile(r"status code: (\d{3})")
_WRONG_KEY = frozenset(
    {
        *("InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "ExpiredToken"),
        *("TokenRefreshRequired", "AuthenticationFailed", "InvalidAuthenticationInfo"),
        *(
            "Unauthorized",
            "InvalidSecurity",
            "AuthenticationRequired",
            "NoAuthenticationInformation",
        ),
    }
)
_NO_BUCKET = frozenset({"NoSuchBucket", "ContainerNotFound", "ResourceNotFound"})
_BUSY = frozenset({429, 500, 502, 503, 504, 408})
_NO_KEY = ("169.254.169.254", "metadata.google.internal", "169.254.170.2", "CredentialUnavailable")
"""Where a library looks for the identity of a machine in a cloud, when it knows no key."""
_LONGEST = 300  # characters of a sentence that somebody else wrote


def explained(error: Exception, url: StoreUrl, right: Right, key: str = "") -> StoreError:
    """Return an error of ours for one of the library's.

    Args:
        error: what the library raised. It names the store's answer in words only.
        url: the store.
        right: what was tried.
        key: with which object.
    """
    text = str(error)
    code = match[1] if (match := _CODE.search(text)) else ""
    status = int(match[1]) if (match := _STATUS.search(text)) else 0
    what = f"{url}: cannot {right}" + (f" {key}" if key and right is not Right.LIST else "")
    if url.scheme == "file":
        return _of_folder(text, what)
    said = _said(text, code, status)
    if any(place in text for place in _NO_KEY):
        return StoreError(f"{what}: no credentials are set.", how_to_set_up(url.scheme))
    if code in _NO_BUCKET:
        return StoreError(f"{url}: there is no such bucket: {said}.", _make(url))
    if code == "RequestTimeTooSkewed":
        return StoreError(f"{what}: {said}.", "Set this computer's clock, by NTP for instance.")
    if code in _WRONG_KEY or status == 401 or type(error).__name__ == "UnauthenticatedError":
        return StoreError(f"{what}: the key is refused: {said}.", how_to_set_up(url.scheme))
    if status == 403 or type(error).__name__ == "PermissionDeniedError":
        return StoreError(f"{what}: {said}.", _grant(url, right))
    if "configured region" in text or (
        status in {301, 307, 400} and ("region" in text or code == "PermanentRedirect")
    ):
        return StoreError(
            f"{what}: the bucket lies in another region: {said}.",
            "Set AWS_REGION to the bucket's region.",
        )
    # Without a status nothing came back at all: no route, a refused connection, a broken line.
    if not status or status in _BUSY:
        return StoreAway(f"{what}: {said}.")
    return StoreError(f"{what}: {said}.")


def _of_folder(text: str, what: str) -> StoreError:
    reason = text.rpartition(": ")[2].partition("\n")[0] if "os error" in text else ""
    first = text.partition("\n")[0][:_LONGEST]
    return StoreError(f"{what}: {reason or first}.", "See to the folder and its disk.")


def _said(text: str, code: str, status: int) -> str:
    """Return what a store answered in one line, without what might be part of a key."""
    if code:
        match = _MESSAGE.search(text)
        return f"{code}, {match[1].rstrip('.')}"[:_LONGEST] if match else code
    first = text.partition("\n")[0].rstrip(". ")
    # A shared access signature stands in the address, behind the question mark.
    first = re.sub(r"\?\S+", "", first)
    return f"HTTP {status}" if status else first[:_LONGEST]


def _grant(url: StoreUrl, right: Right) -> str:
    name = RIGHTS.get(url.scheme, {}).get(right, right.value)
    where = str(url) if right is not Right.LIST else f"{url.scheme}://{url.bucket}"
    return f"Allow {name} on {where} to the key in use, or use another key."


def _make(url: StoreUrl) -> str:
    match url.scheme:
        case "s3":
            return f"Make it: aws s3 mb s3://{url.bucket}; or correct the name."
        case "gs":
            return f"Make it: gcloud storage buckets create gs://{url.bucket}; or correct the name."
        case _:
            return f"Make it: az storage container create -n {url.bucket}; or correct the name."
