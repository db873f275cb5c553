"""Who is signed in on the page: `<id>.<secret>.<signature>` in a cookie, and a row that can be removed.

The secret changes every few minutes. The one before counts until the new one has come back, so that
an answer that is lost signs nobody out; whoever sends it later has copied the cookie, and the session
ends for both.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import Row, delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from gateway.access.callers import Caller, everything, scopes_of
from gateway.access.signing import is_signature, same, sha256, signature
from gateway.access.users import User
from gateway.database.engine import writing
from gateway.database.tables import sessions, users

ROTATE_SECONDS = 900.0
GRACE_SECONDS = 60.0
"""For requests that were sent together, before the new secret was there."""
_COOKIE = re.compile(r"([0-9a-f]{32})\.([\w-]{43})\.([\w-]{43})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Seen:
    """A session whose cookie came."""

    caller: Caller
    cookie: str | None
    """The one to send back in its place; None: it stays."""


class Sessions:
    """Begins, looks at and ends sessions."""

    def __init__(
        self,
        engine: AsyncEngine,
        key: bytes,
        seconds: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._engine = engine
        self._key = key
        self._seconds = seconds
        self._clock = clock

    async def begin(self, user: User) -> str:
        """Sign somebody in; return the cookie."""
        id, secret, now = secrets.token_hex(16), secrets.token_urlsafe(32), self._clock()
        row = {
            "id": id,
            "user_name": user.name,
            "sha256": sha256(secret),
            "created": now,
            "rotated": now,
            "expires": now + self._seconds,
        }
        async with writing(self._engine) as connection:
            await connection.execute(delete(sessions).where(sessions.c.expires < now))
            await connection.execute(insert(sessions).values(row))
        return self._cookie(id, secret)

    async def seen(self, cookie: str) -> Seen | None:
        """Return whose cookie it is; None: it counts no more, or is not ours."""
        match = _COOKIE.fullmatch(cookie)
        if match is None:
            return None
        id, secret, signed = match.groups()
        if not is_signature(signed, self._key, "session", f"{id}.{secret}"):
            return None
        query = select(sessions, users).join(users).where(sessions.c.id == id)
        async with self._engine.connect() as connection:
            row = (await connection.execute(query)).one_or_none()
        now = self._clock()
        if row is None or row.expires <= now or row.disabled:
            return None
        given = sha256(secret)
        if same(given, row.sha256):
            fresh = await self._go_on(row, given, now)
        elif _is_previous(row, given, now):
            # Its successor was lost on the way, as far as is known: another one.
            lost = row.previous_until is None and now - row.rotated > GRACE_SECONDS
            fresh = await self._rotate(row, given, now) if lost else None
        else:
            await self.end(id)
            return None
        caller = Caller(
            name=row.user_name,
            scopes=everything(scopes_of(row.scopes)),
            project=row.project,
            session_id=id,
        )
        return Seen(caller, fresh)

    async def goes_on(self, id: str) -> bool:
        """Whether somebody is signed in still."""
        query = select(sessions.c.expires, users.c.disabled).join(users).where(sessions.c.id == id)
        async with self._engine.connect() as connection:
            row = (await connection.execute(query)).one_or_none()
        return row is not None and row.expires > self._clock() and not row.disabled

    async def end(self, id: str) -> None:
        """Sign out."""
        async with writing(self._engine) as connection:
            await connection.execute(delete(sessions).where(sessions.c.id == id))

    async def end_all(self, name: str) -> int:
        """Sign somebody out everywhere; return out of how many sessions."""
        async with writing(self._engine) as connection:
            query = delete(sessions).where(sessions.c.user_name == name)
            return (await connection.execute(query)).rowcount

    def form_token(self, id: str) -> str:
        """Return what forms of a session carry, and nobody else can know."""
        return signature(self._key, "form", id)

    def is_form_token(self, id: str, given: str) -> bool:
        """Whether a form was made for a session."""
        return is_signature(given, self._key, "form", id)

    async def _go_on(self, row: Row[tuple[object, ...]], given: str, now: float) -> str | None:
        if now - row.rotated > ROTATE_SECONDS:
            return await self._rotate(row, given, now)
        if row.previous_sha256 is not None and row.previous_until is None:
            async with writing(self._engine) as connection:
                await connection.execute(
                    update(sessions)
                    .where(sessions.c.id == row.id, sessions.c.sha256 == given)
                    .values(previous_until=now + GRACE_SECONDS)
                )
        return None

    async def _rotate(self, row: Row[tuple[object, ...]], given: str, now: float) -> str | None:
        """Return a cookie with a new secret; None: another request has one already."""
        secret = secrets.token_urlsafe(32)
        async with writing(self._engine) as connection:
            changed = await _replace(connection, row, given, sha256(secret), now)
        return self._cookie(row.id, secret) if changed else None

    def _cookie(self, id: str, secret: str) -> str:
        return f"{id}.{secret}.{signature(self._key, 'session', f'{id}.{secret}')}"


async def _replace(
    connection: AsyncConnection, row: Row[tuple[object, ...]], given: str, new: str, now: float
) -> bool:
    query = update(sessions).where(sessions.c.id == row.id, sessions.c.sha256 == row.sha256)
    values = {"sha256": new, "previous_sha256": given, "previous_until": None, "rotated": now}
    return bool((await connection.execute(query.values(values))).rowcount)


def _is_previous(row: Row[tuple[object, ...]], given: str, now: float) -> bool:
    if row.previous_sha256 is None or not same(given, row.previous_sha256):
        return False
    return row.previous_until is None or now < row.previous_until
