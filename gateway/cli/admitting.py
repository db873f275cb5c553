"""Keys, users and the audit log, from a terminal of this computer."""

from __future__ import annotations

import asyncio
import re
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, TypeVar

import typer
from sqlalchemy.ext.asyncio import AsyncEngine

from flows.scheduling.labels import moment, user_name
from gateway.access import audit as log
from gateway.access import keys, users
from gateway.access.callers import Scope, scopes_of
from gateway.cli.table import print_table
from gateway.database.engine import make_engine
from gateway.database.upgrading import upgrade
from gateway.exits import note, say, say_json
from trainer.contract.errors import ConfigError

T = TypeVar("T")
SECONDS = {"m": 60, "h": 3600, "d": 86_400}
NAMED: tuple[Scope, ...] = ("admin", "submit", "read", "report")
"""The scopes, those first that include others."""


def create_key(name: str, scopes: str, project: str | None, expires: str | None) -> None:
    """Make a key and print it.

    Raises:
        ConfigError: a value cannot be.
    """
    seconds = None if expires is None else _seconds(expires)

    async def create(engine: AsyncEngine) -> str:
        return await keys.create_key(
            engine, name, scopes_of(scopes), by=user_name(), project=project, seconds=seconds
        )

    say(_do(create, f"keys create {name}"))
    note("This is the only time that the key is shown. Send it as 'Authorization: Bearer KEY'.")


def list_keys(*, as_json: bool) -> None:
    """Print all keys."""
    found, now = _ask(keys.all_keys), time.time()
    if as_json:
        say_json(
            [
                {**asdict(key), "scopes": sorted(key.scopes), "state": key.state(now)}
                | {
                    n: _when(getattr(key, n))
                    for n in ("created", "expires", "revoked", "last_used")
                }
                for key in found
            ]
        )
        return
    head = ("ID", "NAME", "SCOPE", "PROJECT", "STATE", "EXPIRES", "LAST USED")
    rows = [
        (
            *(key.id, key.name, _scope(key.scopes), key.project or "", key.state(now)),
            *(_shown(key.expires), _shown(key.last_used)),
        )
        for key in found
    ]
    print_table(head, rows, named=1, least=("LAST USED", "EXPIRES", "PROJECT"))


def revoke_key(id: str) -> None:
    """Let a key open nothing from now on.

    Raises:
        ConfigError: there is no such key.
    """

    async def revoke(engine: AsyncEngine) -> None:
        await keys.revoke_key(engine, id)

    _do(revoke, f"keys revoke {id}")
    say("revoked; a service that runs forgets it within a second")


def add_user(name: str, scopes: str, project: str | None, *, with_password: bool) -> None:
    """Add somebody.

    Raises:
        ConfigError: a value cannot be, or the name is taken.
    """
    wanted = scopes_of(scopes)
    password = _password() if with_password else None

    async def add(engine: AsyncEngine) -> None:
        await users.add_user(engine, name, wanted, password=password, project=project)

    _do(add, f"users add {name}")
    say(f"{name} may sign in")


def list_users(*, as_json: bool) -> None:
    """Print all users."""
    found = _ask(users.all_users)
    if as_json:
        say_json(
            [
                {**asdict(user), "scopes": sorted(user.scopes), "created": _when(user.created)}
                for user in found
            ]
        )
        return
    rows = [
        (
            *(user.name, _scope(user.scopes), user.project or ""),
            "password" if user.has_password else "elsewhere",
            "disabled" if user.disabled else "",
        )
        for user in found
    ]
    print_table(("NAME", "SCOPE", "PROJECT", "SIGNS IN BY", "STATE"), rows, named=0)


def set_password(name: str) -> None:
    """Give somebody another password.

    Raises:
        ConfigError: there is no such user, or the password is too short.
    """
    password = _password()

    async def change(engine: AsyncEngine) -> None:
        await users.set_password(engine, name, password)

    _do(change, f"users password {name}")
    say(f"{name} has another password, and is signed out everywhere")


def disable_user(name: str, *, disabled: bool) -> None:
    """Let somebody in no more, or again.

    Raises:
        ConfigError: there is no such user.
    """

    async def change(engine: AsyncEngine) -> None:
        await users.disable_user(engine, name, disabled=disabled)

    _do(change, f"users {'disable' if disabled else 'enable'} {name}")
    say(f"{name} is let in {'no more' if disabled else 'again'}")


def audit(most: int, job: str | None, who: str | None, *, as_json: bool) -> None:
    """Print what was done, the newest first."""

    async def read(engine: AsyncEngine) -> list[log.Deed]:
        return [deed async for deed in log.deeds(engine, most, job=job, who=who)]

    found = _ask(read)
    if as_json:
        say_json([{**asdict(deed), "at": moment(deed.at)} for deed in found])
        return
    rows = [
        (_shown(d.at), d.who, d.key_id or "", d.address, d.action, d.job or "", d.outcome)
        for d in found
    ]
    head = ("AT", "WHO", "KEY", "FROM", "WHAT", "JOB", "OUTCOME")
    print_table(head, rows, named=4, least=("FROM", "KEY"))


def _do(work: Callable[[AsyncEngine], Awaitable[T]], action: str) -> T:
    """Do something to the database, and note who did."""

    async def noted(engine: AsyncEngine) -> T:
        done = await work(engine)
        await log.note(engine, log.Deed(who=user_name(), action=action, outcome="done"))
        return done

    return _ask(noted)


def _ask(work: Callable[[AsyncEngine], Awaitable[T]]) -> T:
    async def asked() -> T:
        engine = make_engine()
        try:
            await upgrade(engine)
            return await work(engine)
        finally:
            await engine.dispose()

    return asyncio.run(asked())


def _password() -> str:
    """Ask for a password twice; or read it from standard input where nobody sits."""
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    asked: Any = typer.prompt("Password", hide_input=True, confirmation_prompt=True)
    return str(asked)


def _seconds(text: str) -> float:
    match = re.fullmatch(r"(\d{1,6})([mhd])", text)
    if match is None or int(match[1]) == 0:
        raise ConfigError(f"--expires = {text!r}: is not a time.", "Write it as 30m, 12h or 90d.")
    return int(match[1]) * SECONDS[match[2]]


def _scope(scopes: frozenset[Scope]) -> str:
    return next(scope for scope in NAMED if scope in scopes)


def _when(at: float | None) -> str | None:
    return None if at is None else moment(at)


def _shown(at: float | None) -> str:
    return "" if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M")
