"""What only this installation can have written: job tokens, sessions, tokens of forms.

All replicas sign with one key, which lies in their database.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from base64 import urlsafe_b64encode
from uuid import UUID

from sqlalchemy import insert, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.database.engine import writing
from gateway.database.tables import installation
from trainer.contract.redaction import remember

KEY_NAME = "signing key"
_JOB_TOKEN = re.compile(r"tj_([0-9a-f]{32})_([\w-]{43})", re.ASCII)


async def signing_key(engine: AsyncEngine) -> bytes:
    """Return the installation's key, 32 random bytes; the first who asks draws it."""
    query = select(installation.c.value).where(installation.c.name == KEY_NAME)
    async with engine.connect() as connection:
        found = await connection.scalar(query)
    if found is None:
        try:
            async with writing(engine) as connection:
                drawn = {"name": KEY_NAME, "value": secrets.token_hex(32)}
                await connection.execute(insert(installation).values(drawn))
        except IntegrityError:
            pass  # another replica has drawn one meanwhile
        async with engine.connect() as connection:
            found = (await connection.execute(query)).scalar_one()
    return bytes.fromhex(remember(found))


def signature(key: bytes, purpose: str, text: str) -> str:
    """Return the HMAC-SHA256 of a text, 43 characters that an address can hold.

    Args:
        key: the installation's.
        purpose: what it is good for, so that it is good for nothing else.
        text: what is signed.
    """
    digest = hmac.digest(key, f"{purpose}\0{text}".encode(), "sha256")
    return urlsafe_b64encode(digest).decode().rstrip("=")


def is_signature(given: str, key: bytes, purpose: str, text: str) -> bool:
    """Whether a text has this signature; takes as long whatever is wrong with it."""
    return same(given, signature(key, purpose, text))


def same(given: str, wanted: str) -> bool:
    """Whether two texts are the same, in a time that does not tell how far they are."""
    return hmac.compare_digest(given.encode(), wanted.encode())


def sha256(secret: str) -> str:
    """Return what is kept of a random secret."""
    return hashlib.sha256(secret.encode()).hexdigest()


def job_token(key: bytes, job_id: str | UUID) -> str:
    """Return the token by which a job reports; it counts until the job is over.

    Nothing of it is stored: whoever has the installation's key can tell it.
    """
    run = UUID(str(job_id)).hex
    return f"tj_{run}_{signature(key, 'job', run)}"


def job_of_token(key: bytes, token: str) -> str | None:
    """Return the id of the job whose token it is; None: it is no token of ours."""
    match = _JOB_TOKEN.fullmatch(token)
    if match is None or not is_signature(match[2], key, "job", match[1]):
        return None
    return str(UUID(match[1]))
