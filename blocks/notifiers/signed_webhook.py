"""A webhook of the user's own, signed as https://www.standardwebhooks.com has it.

webhook-id: …             the same when a message comes again: a receiver keeps those it has had
webhook-timestamp: …      seconds since the epoch: an old one is a replay
webhook-signature: v1,…   base64 of HMAC-SHA-256 over "{id}.{timestamp}.{body}"
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import time
from collections.abc import Mapping
from urllib.parse import urlsplit

import httpx

from blocks.notifiers.message import MessageRefused, NotDelivered, PersonalMessage
from blocks.retry_after import retry_after

SECONDS = 10.0  # for a receiver to answer
OLDEST_SECONDS = 300.0  # of a message that is believed
KEY_PREFIX = "whsec_"
TEMPORARY = {408, 425, 429}


def send_signed(url: str, key: str, message: PersonalMessage) -> None:
    """POST a message.

    Raises:
        NotDelivered: nobody answers, or with 5xx, 408, 425 or 429.
        MessageRefused: the receiver answers anything else but 2xx.
    """
    record = {
        "type": "training-orchestrator.notification",
        "title": message.title,
        "message": message.body,
        "level": message.level,
        "events": list(message.events),
    }
    body = json.dumps(record).encode()
    moment = str(int(time.time()))
    headers = {
        "content-type": "application/json",
        "webhook-id": message.id,
        "webhook-timestamp": moment,
        "webhook-signature": signature(key, message.id, moment, body),
    }
    where = f"The webhook at {urlsplit(url).hostname}"
    try:
        with httpx.Client(timeout=SECONDS) as client:
            answer = client.post(url, content=body, headers=headers)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise NotDelivered(f"{where} cannot be reached ({type(error).__name__}).") from None
    if answer.is_success:
        return
    said = f"{where} answers {answer.status_code}."
    if answer.is_server_error or answer.status_code in TEMPORARY:
        raise NotDelivered(said, wait=retry_after(answer.headers.get("retry-after")) or 0.0)
    raise MessageRefused(said)


def signature(key: str, id: str, moment: str, body: bytes) -> str:
    """Return what `webhook-signature` says of a message.

    Args:
        key: the secret; of `whsec_…` the base64 behind it.
        id: the message's.
        moment: the seconds since the epoch, as written.
        body: as it is sent.
    """
    signed = f"{id}.{moment}.".encode() + body
    digest = hmac.new(_bytes_of(key), signed, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode()}"


def is_ours(headers: Mapping[str, str], body: bytes, key: str, *, now: float | None = None) -> bool:
    """Whether a message was signed with the key, and within the last five minutes; for receivers.

    Args:
        headers: by lower-case names.
        body: as it came.
        key: the secret.
        now: seconds since the epoch; None: the clock's.
    """
    id, moment = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    try:
        age = (time.time() if now is None else now) - int(moment)
    except ValueError:
        return False
    ours = signature(key, id, moment, body)
    given = headers.get("webhook-signature", "").split()
    matches = any(hmac.compare_digest(ours.encode(), each.encode()) for each in given)
    return matches and abs(age) <= OLDEST_SECONDS


def _bytes_of(key: str) -> bytes:
    if not key.startswith(KEY_PREFIX):
        return key.encode()
    try:
        return base64.b64decode(key.removeprefix(KEY_PREFIX), validate=True)
    except binascii.Error:
        raise MessageRefused(
            f"The webhook's key begins with {KEY_PREFIX} and is no base64 behind it."
        ) from None
