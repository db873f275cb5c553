"""Users, their passwords and their sessions."""

from __future__ import annotations

import pytest

from gateway.access import users
from gateway.access.sessions import GRACE_SECONDS, ROTATE_SECONDS, Sessions
from gateway.access.users import (
    Passwords,
    add_user,
    all_users,
    disable_user,
    set_password,
    user_from_elsewhere,
)
from trainer.contract.errors import ConfigError

GOOD = "correct horse battery"


class Clock:
    now = 1e9

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def quick_hasher(monkeypatch):
    """Take 8 KiB and no time, as nobody else should."""
    monkeypatch.setattr(users, "_hasher", users.PasswordHasher(1, 8, 1))
    users._nobodys.cache_clear()
    yield
    users._nobodys.cache_clear()


@pytest.fixture
async def ada(engine):
    await add_user(engine, "ada", ["submit"], password=GOOD, project="vision")
    return (await all_users(engine))[0]


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def sessions(engine, clock):
    return Sessions(engine, b"key", 12 * 3600, clock)


async def test_only_the_right_password_of_a_user_who_is_let_in(engine, ada):
    passwords = Passwords(engine)
    await add_user(engine, "eve", ["read"], password=GOOD)
    await disable_user(engine, "eve")
    await add_user(engine, "oidc@example.org", ["read"], password=None)

    assert await passwords.user("ada", GOOD) == ada
    for name, password in (
        ("ada", f"{GOOD} "),
        ("ada", ""),
        ("nobody", GOOD),
        ("eve", GOOD),
        ("oidc@example.org", ""),
        ("oidc@example.org", GOOD),
        ("ada", "x" * 10_000),
    ):
        assert await passwords.user(name, password) is None


async def test_an_unknown_name_takes_as_much_work_as_a_known_one(engine, ada, monkeypatch):
    looked_at = []
    fits = users._fits
    monkeypatch.setattr(users, "_fits", lambda *given: looked_at.append(given) or fits(*given))

    for name in ("ada", "nobody"):
        assert await Passwords(engine).user(name, "wrong password") is None

    assert [kept[:9] for kept, _ in looked_at] == ["$argon2id", "$argon2id"]


async def test_a_short_password_and_a_taken_name_are_refused(engine, ada):
    with pytest.raises(ConfigError, match="9 characters"):
        await add_user(engine, "bob", ["read"], password=GOOD[:9])
    with pytest.raises(ConfigError, match="There is a user 'ada'"):
        await add_user(engine, "ada", ["read"], password=GOOD)
    with pytest.raises(ConfigError, match="no user 'bob'"):
        await disable_user(engine, "bob")


async def test_whoever_signs_in_elsewhere_is_a_user_or_becomes_one_where_that_is_set(engine, ada):
    assert await user_from_elsewhere(engine, "bob", "") is None
    assert (await user_from_elsewhere(engine, "bob", "read")).scopes == {"read"}
    await disable_user(engine, "bob")
    assert await user_from_elsewhere(engine, "bob", "read") is None
    assert (await user_from_elsewhere(engine, "ada", "")).project == "vision"


async def test_a_session_is_its_users_until_it_ends(sessions, clock, ada):
    cookie = await sessions.begin(ada)

    seen = await sessions.seen(cookie)
    assert (seen.caller.name, seen.caller.project, seen.cookie) == ("ada", "vision", None)
    await sessions.end(seen.caller.session_id)
    assert await sessions.seen(cookie) is None

    late = await sessions.begin(ada)
    clock.now += 12 * 3600
    assert await sessions.seen(late) is None


async def test_a_cookie_of_another_installation_is_none(sessions, engine, clock, ada):
    other = await Sessions(engine, b"another key", 60, clock).begin(ada)

    assert await sessions.seen(other) is None
    assert await sessions.seen("x") is None


async def test_a_new_password_and_being_disabled_end_all_sessions(sessions, engine, ada):
    first = await sessions.begin(ada)
    await set_password(engine, "ada", f"{GOOD} staple")
    assert await sessions.seen(first) is None

    second = await sessions.begin(ada)
    await disable_user(engine, "ada")
    assert await sessions.seen(second) is None


async def test_the_secret_changes_and_requests_on_the_way_still_count(sessions, clock, ada):
    old = await sessions.begin(ada)
    clock.now += ROTATE_SECONDS + 1

    new = (await sessions.seen(old)).cookie

    assert new not in {None, old}
    assert (await sessions.seen(old)).cookie is None
    assert (await sessions.seen(new)).cookie is None
    clock.now += GRACE_SECONDS - 1
    assert await sessions.seen(old)


async def test_an_old_secret_that_comes_back_ends_the_session_for_both(sessions, clock, ada):
    old = await sessions.begin(ada)
    clock.now += ROTATE_SECONDS + 1
    new = (await sessions.seen(old)).cookie
    assert await sessions.seen(new)
    clock.now += GRACE_SECONDS + 1

    assert await sessions.seen(old) is None
    assert await sessions.seen(new) is None


async def test_a_new_secret_that_was_lost_signs_nobody_out(sessions, clock, ada):
    old = await sessions.begin(ada)
    clock.now += ROTATE_SECONDS + 1
    lost = (await sessions.seen(old)).cookie
    clock.now += GRACE_SECONDS + 1

    new = (await sessions.seen(old)).cookie

    assert new not in {None, old, lost}
    assert await sessions.seen(new)
