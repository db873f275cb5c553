"""People who sign in on the page: by a password of ours, or elsewhere."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from functools import cache

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from sqlalchemy import Row, delete, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.access.callers import Scope, everything, scopes_of
from gateway.access.keys import check_name
from gateway.database.engine import writing
from gateway.database.tables import sessions, users
from trainer.contract.errors import ConfigError

SHORTEST_PASSWORD, LONGEST_PASSWORD = 10, 1000  # characters
HASHERS = 2
"""How many passwords are looked at at once: each takes 64 MiB, and a core for a while."""
_hasher = PasswordHasher()


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """Somebody who may sign in."""

    name: str
    scopes: frozenset[Scope]
    project: str | None
    has_password: bool
    """Else they sign in elsewhere only."""
    disabled: bool
    created: float
    """Seconds since the epoch."""


class Passwords:
    """Looks at passwords, a few at a time and outside of the event loop."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._turns = asyncio.Semaphore(HASHERS)

    async def user(self, name: str, password: str) -> User | None:
        """Return the user whose name and password these are; None, as late: they are nobody's."""
        async with self._engine.connect() as connection:
            row = (
                await connection.execute(select(users).where(users.c.name == name))
            ).one_or_none()
        kept = row.password if row is not None else None
        async with self._turns:
            fits = await asyncio.to_thread(_fits, kept or _nobodys(), password)
        return _user(row) if row is not None and kept and fits and not row.disabled else None


async def add_user(
    engine: AsyncEngine,
    name: str,
    scopes: Collection[Scope],
    *,
    password: str | None,
    project: str | None = None,
) -> None:
    """Add somebody.

    Args:
        engine: of the database.
        name: by which they sign in; elsewhere, what they are called there.
        scopes: what they may do.
        password: theirs; None: they sign in elsewhere.
        project: the only one whose jobs they see; None: all.

    Raises:
        ConfigError: the name is taken, or cannot be, or the password is too short.
    """
    check_name("NAME", name)
    if project is not None:
        check_name("project", project)
    row = {
        "name": name,
        "password": None if password is None else await asyncio.to_thread(hashed, password),
        "scopes": ",".join(sorted(scopes)),
        "project": project,
        "created": time.time(),
    }
    try:
        async with writing(engine) as connection:
            await connection.execute(insert(users).values(row))
    except IntegrityError:
        raise ConfigError(
            f"There is a user {name!r}.", f"Change the password: trainctl users password {name}."
        ) from None


async def set_password(engine: AsyncEngine, name: str, password: str) -> None:
    """Give somebody another password, and sign them out everywhere.

    Raises:
        ConfigError: there is no such user, or the password is too short.
    """
    await _change(engine, name, password=await asyncio.to_thread(hashed, password))


async def disable_user(engine: AsyncEngine, name: str, *, disabled: bool = True) -> None:
    """Let somebody in no more, and sign them out everywhere; or let them in again.

    Raises:
        ConfigError: there is no such user.
    """
    await _change(engine, name, disabled=disabled)


async def all_users(engine: AsyncEngine) -> list[User]:
    """Return everybody, by name."""
    async with engine.connect() as connection:
        return [_user(r) for r in await connection.execute(select(users).order_by(users.c.name))]


async def user_named(engine: AsyncEngine, name: str) -> User | None:
    """Return a user; None: there is none, or they are not let in."""
    async with engine.connect() as connection:
        row = (await connection.execute(select(users).where(users.c.name == name))).one_or_none()
    return None if row is None or row.disabled else _user(row)


async def user_from_elsewhere(engine: AsyncEngine, name: str, new_scopes: str) -> User | None:
    """Return who has signed in elsewhere; None: they are not let in.

    Args:
        engine: of the database.
        name: what they are called there.
        new_scopes: what somebody new may do; empty: nothing, they are not let in.
    """
    async with engine.connect() as connection:
        row = (await connection.execute(select(users).where(users.c.name == name))).one_or_none()
    if row is None and new_scopes:
        with suppress(ConfigError):  # no name; or another request has added them just now
            await add_user(engine, name, scopes_of(new_scopes), password=None)
        return await user_named(engine, name)
    return None if row is None or row.disabled else _user(row)


def hashed(password: str) -> str:
    """Return argon2's hash of a password. It takes a while.

    Raises:
        ConfigError: it is too short, or too long.
    """
    if not SHORTEST_PASSWORD <= len(password) <= LONGEST_PASSWORD:
        raise ConfigError(
            f"The password has {len(password)} characters.",
            f"Take {SHORTEST_PASSWORD} to {LONGEST_PASSWORD}; several words are good.",
        )
    return _hasher.hash(password)


async def _change(engine: AsyncEngine, name: str, **values: object) -> None:
    async with writing(engine) as connection:
        changed = await connection.execute(
            update(users).where(users.c.name == name).values(**values)
        )
        await connection.execute(delete(sessions).where(sessions.c.user_name == name))
    if not changed.rowcount:
        raise ConfigError(f"There is no user {name!r}.", "List them: trainctl users list.")


@cache
def _nobodys() -> str:
    """Return the hash of no password: looking at it takes as long as at anybody's."""
    return _hasher.hash("")


def _fits(kept: str, password: str) -> bool:
    if not 0 < len(password) <= LONGEST_PASSWORD:
        return False
    try:
        return _hasher.verify(kept, password)
    except (VerificationError, InvalidHashError):
        return False


def _user(row: Row[tuple[object, ...]]) -> User:
    found = row._asdict()
    return User(
        name=found["name"],
        scopes=everything(scopes_of(found["scopes"])),
        project=found["project"],
        has_password=found["password"] is not None,
        disabled=bool(found["disabled"]),
        created=found["created"],
    )
