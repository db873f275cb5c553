"""A connection to the database: the file in the orchestrator's home, or the PostgreSQL of a URL."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from blocks.home import home, private_folder
from blocks.secrets.reading import secret
from trainer.contract.errors import ConfigError, OrchestratorError
from trainer.contract.redaction import remember

VARIABLE = "TRAINING_ORCHESTRATOR_DATABASE_URL"
FILE = "gateway.db"
SQLITE, POSTGRESQL = "sqlite+aiosqlite", "postgresql+asyncpg"
DRIVERS = {
    **dict.fromkeys(("sqlite", SQLITE), SQLITE),
    **dict.fromkeys(("postgres", "postgresql", POSTGRESQL), POSTGRESQL),
}
BUSY_MS = 30_000
"""How long a writer of SQLite waits for another one."""
CONNECT_SECONDS = 10
_BEGIN = "sqlite_begin"


class DatabaseUnreachable(OrchestratorError):
    """The gateway's database does not answer, refuses us, or is damaged."""

    default_suggestion = (
        f"Check {VARIABLE}, or unset it: a file in the orchestrator's home is used."
    )


def database_url() -> URL:
    """Return where the database is: `$TRAINING_ORCHESTRATOR_DATABASE_URL`, or a file in our home.

    Raises:
        ConfigError: the variable holds no address of SQLite or PostgreSQL.
    """
    given = secret(VARIABLE)
    if not given:
        return URL.create(SQLITE, database=str(home() / FILE))
    try:
        url = make_url(given)
    except ArgumentError:  # its text quotes the address, which may hold a password
        url = URL.create("none")
    driver = DRIVERS.get(url.drivername)
    # One in memory would be another one for each connection.
    if driver is None or not url.database or url.database == ":memory:":
        raise ConfigError(
            f"{VARIABLE}: this is no address of a database that the gateway can use.",
            "Write sqlite:////absolute/path.db or postgresql://USER:PASSWORD@HOST/DATABASE.",
        )
    if url.password:
        remember(str(url.password))
    return url.set(drivername=driver)


def make_engine(url: URL | None = None) -> AsyncEngine:
    """Return an engine; nothing is connected yet. Its maker disposes of it.

    Args:
        url: of the database, with one of our drivers; None: `database_url()`.

    Raises:
        ConfigError: the address is none, or its file cannot be made.
    """
    url = url or database_url()
    if url.drivername != SQLITE:
        # A connection that the server has closed meanwhile is replaced before it is used.
        connecting: dict[str, Any] = {"timeout": CONNECT_SECONDS}
        return create_async_engine(url, pool_pre_ping=True, connect_args=connecting)
    _make_private(Path(str(url.database)))
    engine = create_async_engine(url)
    event.listen(engine.sync_engine, "connect", _prepare)
    event.listen(engine.sync_engine, "begin", _begin)
    return engine


@asynccontextmanager
async def writing(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """Hold a transaction that writes, from its first statement on; commit at the end.

    SQLite gives up at once, without waiting, on one that has read before another wrote.
    """
    async with engine.connect() as connection:
        await connection.execution_options(**{_BEGIN: "IMMEDIATE"})
        async with connection.begin():
            yield connection


def _make_private(path: Path) -> None:
    """Create the file for its owner alone; SQLite gives its other files the same mode."""
    private_folder(path.parent)
    try:
        os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise ConfigError(
            f"The gateway's database {path} cannot be opened: {error.strerror}.",
            f"Let this user write to it, or set {VARIABLE}.",
        ) from None


def _prepare(connection: Any, record: object) -> None:
    """Prepare a new connection of SQLite."""
    del record
    # Else the driver begins transactions by itself, and not before statements that make tables.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in (
        f"busy_timeout = {BUSY_MS}",  # the first: the next one may find the file locked
        "journal_mode = WAL",
        "synchronous = FULL",  # what was acknowledged outlives a power cut too
        "foreign_keys = ON",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin(connection: Connection) -> None:
    mode = connection.get_execution_options().get(_BEGIN, "DEFERRED")
    connection.exec_driver_sql(f"BEGIN {mode}")
