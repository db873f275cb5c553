"""API keys: `to_<id>_<secret>`, shown once and kept as a hash."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import Row, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.access.callers import Caller, Scope, everything, scopes_of
from gateway.access.signing import same, sha256
from gateway.database.engine import writing
from gateway.database.tables import LONGEST_NAME, api_keys
from trainer.contract.errors import ConfigError

_KEY = re.compile(r"to_([0-9a-f]{12})_([\w-]{43})", re.ASCII)
USED_SECONDS = 60.0  # between two notes of when a key was used


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """A key as it is kept; times are seconds since the epoch."""

    id: str
    name: str
    scopes: frozenset[Scope]
    project: str | None
    created: float
    created_by: str
    expires: float | None
    revoked: float | None
    last_used: float | None

    def state(self, now: float) -> str:
        """Return whether it opens anything, in a word."""
        if self.revoked is not None:
            return "revoked"
        return "expired" if self.expires is not None and self.expires <= now else "valid"

    def caller(self) -> Caller:
        """Return who comes with it."""
        return Caller(name=self.name, scopes=self.scopes, project=self.project, key_id=self.id)


async def create_key(
    engine: AsyncEngine,
    name: str,
    scopes: Collection[Scope],
    *,
    by: str,
    project: str | None = None,
    seconds: float | None = None,
) -> str:
    """Make a key, and return it: this is the only time that it is known.

    Args:
        engine: of the database.
        name: whose or what for it is.
        scopes: what it may do.
        by: who makes it.
        project: the only one whose jobs it sees; None: all.
        seconds: how long it counts; None: until it is revoked.

    Raises:
        ConfigError: the name is empty or too long.
    """
    check_name("NAME", name)
    if project is not None:
        check_name("project", project)
    id, secret, now = secrets.token_hex(6), secrets.token_urlsafe(32), time.time()
    row = {
        "id": id,
        "name": name,
        "sha256": sha256(secret),
        "scopes": ",".join(sorted(scopes)),
        "project": project,
        "created": now,
        "created_by": by,
        "expires": None if seconds is None else now + seconds,
    }
    async with writing(engine) as connection:
        await connection.execute(insert(api_keys).values(row))
    return f"to_{id}_{secret}"


async def all_keys(engine: AsyncEngine) -> list[ApiKey]:
    """Return every key that was made, the newest first."""
    async with engine.connect() as connection:
        rows = await connection.execute(select(api_keys).order_by(api_keys.c.created.desc()))
        return [_key(row) for row in rows]


async def revoke_key(engine: AsyncEngine, id: str) -> None:
    """Let a key open nothing from now on.

    Raises:
        ConfigError: there is no such key, or it is revoked.
    """
    ours = api_keys.c.id == id.removeprefix("to_").partition("_")[0]
    query = update(api_keys).where(ours, api_keys.c.revoked.is_(None)).values(revoked=time.time())
    async with writing(engine) as connection:
        if (await connection.execute(query)).rowcount:
            return
    # Not quoted: somebody may have given the whole key.
    raise ConfigError("There is no key of this id that counts.", "List them: trainctl keys list.")


async def key_of(engine: AsyncEngine, token: str) -> ApiKey | None:
    """Return the key that a caller sent, also one that no longer counts; None: there is none."""
    match = _KEY.fullmatch(token)
    if match is None:
        return None
    async with engine.connect() as connection:
        query = select(api_keys).where(api_keys.c.id == match[1])
        row = (await connection.execute(query)).one_or_none()
    if row is None or not same(sha256(match[2]), row.sha256):
        return None
    return _key(row)


async def key_of_id(engine: AsyncEngine, id: str) -> ApiKey | None:
    """Return a key, also one that no longer counts; None: there is none of this id."""
    async with engine.connect() as connection:
        query = select(api_keys).where(api_keys.c.id == id)
        row = (await connection.execute(query)).one_or_none()
    return None if row is None else _key(row)


async def note_use(engine: AsyncEngine, key: ApiKey, now: float) -> None:
    """Note that a key is used, once a minute at most."""
    if key.last_used is not None and now - key.last_used < USED_SECONDS:
        return
    stale = or_(api_keys.c.last_used.is_(None), api_keys.c.last_used < now - USED_SECONDS)
    async with writing(engine) as connection:
        query = update(api_keys).where(api_keys.c.id == key.id, stale).values(last_used=now)
        await connection.execute(query)


def check_name(what: str, name: str) -> None:
    """Refuse a name that cannot be shown or kept.

    Raises:
        ConfigError: naming the field.
    """
    if not (0 < len(name) <= LONGEST_NAME and name.isprintable() and name == name.strip()):
        raise ConfigError(
            f"{what} = {name[:80]!r}.", f"It has 1 to {LONGEST_NAME} printable characters."
        )


def _key(row: Row[tuple[object, ...]]) -> ApiKey:
    found = row._asdict()
    del found["sha256"]
    return ApiKey(**found | {"scopes": everything(scopes_of(found["scopes"]))})
