"""Messages reach people by every way there is: each is sent to a server that keeps what came."""

from __future__ import annotations

import base64
import json

import pytest

from blocks.notifiers.message import Level, MessageRefused, NotDelivered, PersonalMessage
from blocks.notifiers.sending import send
from blocks.notifiers.signed_webhook import is_ours, signature
from tests.receivers import mail_receiver, web_receiver
from trainer.contract.redaction import redacted

KEY = "a-key-that-signs-messages"
TOLD = PersonalMessage(
    id="0123abcd",
    title="quickstart has failed",
    body="The loss was NaN.\n→ Lower learning_rate.",
    level=Level.FAILURE,
    events=({"id": "1", "what": "failed", "loss": 0.5},),
)


@pytest.fixture
def web():
    with web_receiver() as found:
        yield found


def test_a_webhook_can_prove_who_sent_a_message_and_when(web, monkeypatch):
    monkeypatch.setenv("HOOK_KEY", KEY)
    send(f"{web.url}/hook", "HOOK_KEY", TOLD)
    (came,) = web.requests

    assert came.json["title"] == TOLD.title
    assert came.json["level"] == "failure"
    assert came.json["events"] == list(TOLD.events)
    assert came.headers["webhook-id"] == TOLD.id
    assert is_ours(came.headers, came.body, KEY)
    sent_at = int(came.headers["webhook-timestamp"])
    assert not is_ours(came.headers, came.body, KEY, now=sent_at + 301)
    assert not is_ours(came.headers, came.body, KEY, now=sent_at - 301)
    assert not is_ours(came.headers, came.body + b" ", KEY)
    assert not is_ours(came.headers, came.body, "another-key")
    for name in ("webhook-id", "webhook-timestamp", "webhook-signature"):
        assert not is_ours({**came.headers, name: "17"}, came.body, KEY)


def test_the_signature_is_that_of_standard_webhooks():
    """The example of https://github.com/standard-webhooks/standard-webhooks, its key and its result."""
    key = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    body = b'{"test": 2432232314}'

    found = signature(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", body)

    assert found == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize(
    ("answer", "error", "wait"),
    [
        (503, NotDelivered, 0.0),
        ((429, {"Retry-After": "17"}), NotDelivered, 17.0),
        (410, MessageRefused, None),
        ((302, {"Location": "http://127.0.0.1:9/"}), MessageRefused, None),
    ],
)
def test_what_a_webhook_answers_says_whether_it_is_sent_again(
    web, monkeypatch, answer, error, wait
):
    monkeypatch.setenv("HOOK_KEY", KEY)
    web.next.append(answer)

    with pytest.raises(error) as caught:
        send(web.url, "HOOK_KEY", TOLD)

    assert getattr(caught.value, "wait", None) == wait


def test_a_webhook_without_its_key_is_sent_nothing(web, monkeypatch):
    monkeypatch.delenv("HOOK_KEY", raising=False)

    with pytest.raises(MessageRefused, match="HOOK_KEY is not set"):
        send(web.url, "HOOK_KEY", TOLD)

    assert web.requests == []


def test_mail_comes_from_the_server_that_is_set(monkeypatch):
    with mail_receiver() as mail:
        server = f"mailto://127.0.0.1:{mail.port}?from=jobs@example.com&mode=insecure"
        monkeypatch.setenv("SMTP_URL", server)
        send("mailto:ada@example.org", None, TOLD)

    (came,) = mail.mails
    assert mail.recipients == [["ada@example.org"]]
    assert "jobs@example.com" in came["from"]
    assert came["subject"] == TOLD.title
    assert "Lower learning_rate." in came.get_body(("plain", "html")).get_content()


def test_mail_without_a_server_says_what_to_set(monkeypatch):
    monkeypatch.delenv("SMTP_URL", raising=False)

    with pytest.raises(MessageRefused, match=r"SMTP_URL is not set.*") as caught:
        send("mailto:ada@example.org", None, TOLD)

    assert "SMTP_URL=mailtos://" in caught.value.suggestion


SLACK = "https://hooks.slack.com/services/T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ"
DISCORD = "https://discord.com/api/webhooks/4174216298/JHMHI8qBe7bk2ZwO5U711o3dV_js"
TEAMS = (
    "https://prod-12.westeurope.logic.azure.com:443/workflows/3c5d4a7f1b2e4c8e9a0b1c2d3e4f5a6b"
    "/triggers/manual/paths/invoke?api-version=2016-06-01&sp=%2Ftriggers%2Fmanual%2Frun&sv=1.0"
    "&sig=K2kTk0mZb0nRzM3sRzC5w9vUuF8yL1Xn7Q4dEo6HtGg"
)


@pytest.mark.parametrize(
    ("address", "host"),
    [(SLACK, "hooks.slack.com"), (DISCORD, "discord.com"), (TEAMS, "logic.azure.com")],
    ids=["Slack", "Discord", "Teams"],
)
def test_the_address_that_a_chat_gives_is_one(web, monkeypatch, address, host):
    """What goes to the chat's own host goes to ours instead; nothing else is changed."""
    import requests

    asked = []
    really = requests.Session.request

    def elsewhere(self, method, url, **given):
        asked.append(url)
        return really(self, method, web.url, **given)

    monkeypatch.setattr(requests.Session, "request", elsewhere)
    monkeypatch.setenv("CHAT_URL", address)
    send("CHAT_URL", None, TOLD)

    assert host in asked[0]
    assert "Lower learning_rate." in json.dumps(web.requests[0].json)
    assert TOLD.title in json.dumps(web.requests[0].json)


def test_ntfy_has_title_and_text(web, monkeypatch):
    monkeypatch.setenv("PUSH_URL", web.url.replace("http://", "ntfy://") + "/jobs")
    send("PUSH_URL", None, TOLD)

    assert web.requests[0].json["topic"] == "jobs"
    assert web.requests[0].json["title"] == TOLD.title


@pytest.mark.parametrize(
    ("status", "error"), [(403, MessageRefused), (404, MessageRefused), (500, NotDelivered)]
)
def test_a_service_that_refuses_is_not_one_that_is_away(web, monkeypatch, status, error):
    monkeypatch.setenv("PUSH_URL", web.url.replace("http://", "ntfy://") + "/jobs")
    web.next.extend([status] * 5)

    with pytest.raises(error, match="ntfy"):
        send("PUSH_URL", None, TOLD)


@pytest.mark.parametrize("address", ["nosuchservice://x/y", "nonsense", "slack://"])
def test_what_is_no_address_is_refused_without_being_shown(monkeypatch, address):
    monkeypatch.setenv("CHAT_URL", address)

    with pytest.raises(MessageRefused) as caught:
        send("CHAT_URL", None, TOLD)

    assert address not in caught.value.message
    assert "notify test" in caught.value.suggestion


def test_a_token_in_an_address_is_known_from_then_on(web, monkeypatch):
    token = base64.b32encode(b"a very long token").decode().rstrip("=")
    monkeypatch.setenv("PUSH_URL", web.url.replace("http://", f"ntfy://user:{token}@") + "/jobs")
    send("PUSH_URL", None, TOLD)

    assert token not in redacted(f"somebody logs {token}")
