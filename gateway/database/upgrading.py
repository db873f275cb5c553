"""Bring the database to the newest revision, whatever it is at and whoever else does so just now."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.database.engine import DatabaseUnreachable, writing
from trainer.contract.errors import ConfigError

MIGRATIONS = Path(__file__).parent / "migrations"
NEWEST = "head"
LOCK = 0x746F_6777
"""The advisory lock of PostgreSQL that the one who migrates holds; any number of our own."""


async def upgrade(engine: AsyncEngine, revision: str = NEWEST) -> None:
    """Migrate the database, in one transaction; others that start meanwhile wait for it.

    Args:
        engine: of the database.
        revision: up to which; the newest by default.

    Raises:
        ConfigError: a newer version of ours has written it.
        DatabaseUnreachable: it does not answer, refuses us, or is damaged.
    """
    try:
        async with writing(engine) as connection:  # of SQLite only one can be open
            if connection.dialect.name == "postgresql":
                await connection.execute(
                    text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK}
                )
            await connection.run_sync(_migrate, revision)
    except CommandError as error:
        if "locate revision" not in str(error):
            raise
        raise ConfigError(
            f"The gateway's database {_shown(engine)} was written by a newer version of this program.",
            "Install that version, or name another database.",
        ) from None
    except (DBAPIError, OSError) as error:
        cause = getattr(error, "orig", None) or error
        raise DatabaseUnreachable(
            f"The gateway's database {_shown(engine)} cannot be used: {cause}."
        ) from error


def configuration() -> Config:
    """Return Alembic's configuration: where the migrations are."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    return config


def revisions() -> list[str]:
    """Return all revisions, the oldest first."""
    every = ScriptDirectory.from_config(configuration()).walk_revisions()
    return [script.revision for script in every][::-1]


def _migrate(connection: Connection, revision: str) -> None:
    config = configuration()
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


def _shown(engine: AsyncEngine) -> str:
    return engine.url.render_as_string(hide_password=True)
