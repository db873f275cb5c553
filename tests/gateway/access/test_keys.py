"""API keys: made, found, counted no more."""

from __future__ import annotations

import time

import pytest
from sqlalchemy import select

from gateway.access.callers import everything, scopes_of
from gateway.access.keys import all_keys, create_key, key_of, note_use, revoke_key
from gateway.database.tables import api_keys
from trainer.contract.errors import ConfigError


async def test_a_key_is_found_by_all_of_it_and_kept_as_a_hash(engine):
    key = await create_key(engine, "ci", ["submit"], by="ada", project="vision")

    found = await key_of(engine, key)

    assert (found.name, found.project, found.state(time.time())) == ("ci", "vision", "valid")
    assert found.scopes == {"submit", "read", "report"}
    async with engine.connect() as connection:
        kept = str((await connection.execute(select(api_keys))).one())
    assert key.rpartition("_")[2] not in kept
    assert await key_of(engine, f"{key[:-1]}{'A' if key[-1] != 'A' else 'B'}") is None


async def test_a_key_counts_until_it_expires_or_is_revoked(engine):
    short = await key_of(engine, await create_key(engine, "a", ["read"], by="ada", seconds=60))
    gone = await create_key(engine, "b", ["read"], by="ada")
    await revoke_key(engine, gone.split("_")[1])

    assert short.state(time.time()) == "valid"
    assert short.state(time.time() + 61) == "expired"
    assert (await key_of(engine, gone)).state(time.time()) == "revoked"
    assert [key.name for key in await all_keys(engine)] == ["b", "a"]


async def test_a_key_is_revoked_by_its_id_or_all_of_it_and_never_quoted(engine):
    key = await create_key(engine, "a", ["read"], by="ada")
    await revoke_key(engine, key)

    with pytest.raises(ConfigError, match="no key of this id") as refused:
        await revoke_key(engine, key)

    assert key not in str(refused.value)


async def test_when_a_key_was_used_is_noted_once_a_minute(engine):
    key = await key_of(engine, await create_key(engine, "a", ["read"], by="ada"))
    for moment in (1000.0, 1030.0, 1061.0):
        await note_use(engine, (await all_keys(engine))[0], moment)
        last = (await all_keys(engine))[0].last_used
        assert last == (1000.0 if moment < 1060 else 1061.0)
    assert key.last_used is None


@pytest.mark.parametrize("name", ["", " x", "a\nb", "x" * 201])
async def test_a_name_that_cannot_be_shown_is_refused(tmp_path, name):
    with pytest.raises(ConfigError, match="NAME = "):
        await create_key(None, name, ["read"], by="ada")


@pytest.mark.parametrize("given", ["", "write", "read,write", ","])
def test_scopes_are_words_of_ours(given):
    with pytest.raises(ConfigError, match="scopes = "):
        scopes_of(given)


def test_a_scope_includes_what_is_below_it():
    assert everything(["admin"]) == {"read", "submit", "admin", "report"}
    assert scopes_of("read") == {"read"}
    assert scopes_of("report") == {"report"}
