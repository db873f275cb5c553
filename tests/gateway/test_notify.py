"""`trainctl notify test` tries everybody who is told, and says what came of each."""

from __future__ import annotations

import pytest
from ruamel.yaml import YAML

from flows.notifying.destinations import file_of_home
from tests.gateway.commanding import job_values
from tests.receivers import mail_receiver, web_receiver


@pytest.fixture
def web():
    with web_receiver() as found:
        yield found


def test_each_receiver_is_tried_and_named(trainctl, web, tmp_path, monkeypatch):
    monkeypatch.setenv("HOOK_KEY", "a-key-that-signs")
    monkeypatch.delenv("CHAT_URL", raising=False)
    night = {"start": "00:00", "end": "23:59", "time_zone": "UTC"}
    settings = {"to": [{"to": web.url, "key": "HOOK_KEY"}, "CHAT_URL"], "quiet_hours": night}
    YAML().dump(settings, file_of_home())
    path = tmp_path / "job.yaml"
    YAML().dump({**job_values(), "notifications": {"to": "mailto:ada@example.org"}}, path)

    with mail_receiver() as mail:
        server = f"mailto://127.0.0.1:{mail.port}?from=jobs@example.com&mode=insecure"
        monkeypatch.setenv("SMTP_URL", server)
        said = trainctl("notify", "test", path)

    assert said.returncode == 1
    assert said.stdout.splitlines() == [
        "ok     mailto:ada@example.org",
        f"ok     {web.url}",
        "ERROR  CHAT_URL  CHAT_URL is not set here, so nobody is told. "
        "Set CHAT_URL to an address such as slack://…, where the job runs.",
    ]
    assert len(web.requests) == len(mail.mails) == 1


def test_where_nobody_is_told_it_says_where_to_name_somebody(trainctl):
    said = trainctl("notify", "test")

    assert said.returncode == 2
    assert str(file_of_home()) in said.stderr


def test_a_file_that_is_not_right_is_named_with_the_remedy(trainctl):
    file_of_home().write_text("tow: CHAT_URL\n")
    said = trainctl("notify", "test")

    assert said.returncode == 2
    assert f"{file_of_home()}: tow is not a field; did you mean to?" in said.stderr
