"""Keys, users and the audit log from a terminal; and what the service says before it opens a door."""

from __future__ import annotations

import io
import json
import sys

import pytest

from gateway.cli import serving
from tests.gateway.commanding import call_here
from trainer.contract.errors import ConfigError


@pytest.fixture
def here(capfd):
    return lambda *words: call_here(capfd, *words)


def test_a_key_is_shown_once_listed_and_revoked(here):
    key = here("keys", "create", "ci", "--scopes", "submit", "--project", "vision").stdout.strip()

    (listed,) = json.loads(here("keys", "list", "--json").stdout)
    assert key.startswith(f"to_{listed['id']}_")
    assert (listed["name"], listed["state"], listed["expires"]) == ("ci", "valid", None)
    assert key not in here("keys", "list").stdout
    assert here("keys", "revoke", listed["id"]).returncode == 0
    assert json.loads(here("keys", "list", "--json").stdout)[0]["state"] == "revoked"
    audit = json.loads(here("audit", "--json").stdout)
    assert [deed["action"].split()[1] for deed in audit] == ["revoke", "create"]
    assert key not in str(audit)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("keys", "create", "x", "--scopes", "all"), "scopes = 'all'"),
        (("keys", "create", "x", "--expires", "soon"), "--expires = 'soon'"),
        (("keys", "revoke", "0123456789ab"), "no key of this id"),
        (("users", "disable", "nobody"), "no user 'nobody'"),
    ],
)
def test_bad_input_is_one_line(here, words, said):
    answer = here(*words)

    assert answer.returncode == 2
    assert said in answer.stderr
    assert answer.stderr.count("\n") == 1


def test_a_user_is_added_by_a_password_from_a_pipe(here, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("short\n"))
    assert "5 characters" in here("users", "add", "ada").stderr
    monkeypatch.setattr(sys, "stdin", io.StringIO("correct horse battery\n"))
    assert here("users", "add", "ada").returncode == 0

    (listed,) = json.loads(here("users", "list", "--json").stdout)
    assert (listed["name"], listed["has_password"]) == ("ada", True)


def test_the_service_opens_no_door_before_there_is_a_key(here):
    with pytest.raises(ConfigError, match=r"host = 0\.0\.0\.0.*trainctl keys create"):
        serving.serve("0.0.0.0", 0)  # noqa: S104
