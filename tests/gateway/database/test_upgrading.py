"""Migrations on SQLite and PostgreSQL: from every revision, several at once, and to what is declared."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import insert, select, text

from gateway.database.engine import SQLITE, VARIABLE, DatabaseUnreachable, database_url, make_engine
from gateway.database.tables import installation, metadata
from gateway.database.upgrading import configuration, revisions, upgrade
from gateway.metrics import tables as of_metrics
from trainer.contract.errors import ConfigError

STARTS = """
import asyncio, sys
from gateway.database.engine import make_engine
from gateway.database.upgrading import upgrade

async def start():
    engine = make_engine()
    print("ready", flush=True)
    sys.stdin.readline()
    await upgrade(engine)
    await engine.dispose()

asyncio.run(start())
"""


def _start():
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, "-c", STARTS], stdin=pipe, stdout=pipe, stderr=pipe, text=True
    )


def differences(connection):
    assert of_metrics.metadata is metadata  # they are declared by being imported
    ours = MigrationContext.configure(
        connection, opts={"compare_type": True, "include_object": is_ours}
    )
    return compare_metadata(ours, metadata)


def is_ours(table, name, kind, reflected, compared_to):
    return not (kind == "table" and name == "gateway_version")


@pytest.mark.parametrize("revision", ["base", *revisions()])
async def test_every_revision_is_brought_to_what_the_code_declares(empty_engine, revision):
    if revision != "base":
        await upgrade(empty_engine, revision)

    await upgrade(empty_engine)

    async with empty_engine.connect() as connection:
        assert await connection.run_sync(differences) == []


def test_the_revisions_are_one_line():
    assert len(ScriptDirectory.from_config(configuration()).get_heads()) == 1


async def test_processes_that_start_at_once_migrate_once(empty_engine, database, monkeypatch):
    monkeypatch.setenv(VARIABLE, database.render_as_string(hide_password=False))
    starts = [_start() for _ in range(3)]
    for process in starts:
        assert process.stdout.readline() == "ready\n"

    ends = await asyncio.gather(*(asyncio.to_thread(p.communicate, "go\n") for p in starts))

    assert [(p.returncode, err) for p, (_, err) in zip(starts, ends, strict=True)] == [(0, "")] * 3
    async with empty_engine.connect() as connection:
        rows = (await connection.execute(text("SELECT version_num FROM gateway_version"))).all()
    assert rows == [(revisions()[-1],)]


async def test_a_migration_that_fails_leaves_nothing_behind(empty_engine, monkeypatch):
    def broken(config, revision):
        migrate(config, revision)
        raise RuntimeError

    from gateway.database import upgrading

    migrate = upgrading.command.upgrade
    monkeypatch.setattr(upgrading.command, "upgrade", broken)
    with pytest.raises(RuntimeError):
        await upgrade(empty_engine)
    monkeypatch.undo()

    async with empty_engine.connect() as connection:
        assert (await connection.run_sync(differences))[0][0] == "add_table"


async def test_a_database_of_a_newer_version_is_refused(engine):
    await upgrade(engine)
    async with engine.begin() as connection:
        await connection.execute(text("UPDATE gateway_version SET version_num = '9999'"))

    with pytest.raises(ConfigError, match="newer version"):
        await upgrade(engine)


async def test_what_is_stored_outlives_an_upgrade(empty_engine):
    await upgrade(empty_engine, revisions()[0])
    async with empty_engine.begin() as connection:
        await connection.execute(insert(installation).values(name="a", value="b"))

    await upgrade(empty_engine)

    async with empty_engine.connect() as connection:
        assert (await connection.execute(select(installation))).all() == [("a", "b")]


async def test_the_file_is_its_owners_alone(home):
    engine = make_engine()
    await upgrade(engine)
    await engine.dispose()

    assert database_url().database == str(home / "gateway.db")
    assert {path.stat().st_mode & 0o077 for path in home.iterdir()} == {0}


async def test_a_file_that_is_no_database_is_one_message(tmp_path):
    (tmp_path / "x.db").write_text("this is no database at all, whatever its name says " * 20)
    engine = make_engine(database_url().set(database=str(tmp_path / "x.db")))
    try:
        with pytest.raises(
            DatabaseUnreachable, match=r"x\.db cannot be used: file is not a database"
        ):
            await upgrade(engine)
    finally:
        await engine.dispose()


@pytest.mark.parametrize(
    "given",
    ["mysql://me:hunter2hunter2@host/db", "not a url hunter2hunter2", "sqlite://", "postgresql://"],
)
def test_an_address_that_cannot_be_is_one_message_without_it(monkeypatch, given):
    monkeypatch.setenv(VARIABLE, given)

    with pytest.raises(ConfigError, match=VARIABLE) as refused:
        database_url()

    assert "hunter2" not in str(refused.value)


def test_the_usual_addresses_get_our_drivers(monkeypatch):
    monkeypatch.setenv(VARIABLE, "postgres://me:pass@host/db")
    assert database_url().drivername == "postgresql+asyncpg"
    monkeypatch.setenv(VARIABLE, "sqlite:////tmp/x.db")
    assert (database_url().drivername, database_url().database) == (SQLITE, "/tmp/x.db")
