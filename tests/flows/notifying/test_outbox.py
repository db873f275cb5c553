"""What is noted comes to its receiver, once as a rule, whatever dies or is away meanwhile."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time

import pytest

from flows.notifying import grouping, sending
from flows.notifying.destinations import Destination
from flows.notifying.outbox import DAY, Outbox, outboxes
from flows.notifying.sending import send_waiting
from tests.flows.notifying.conftest import told
from tests.waiting import until_now

DIES = """
import os
from flows.notifying import outbox, sending
outbox.Outbox.settle = lambda *_: os._exit(9)
sending.send_waiting(outbox.outboxes()[0], hurry=True)
"""


@pytest.fixture
def receiver(hook) -> Destination:
    return Destination(to=hook.url, key="HOOK_KEY", group_seconds=0.0)


def event(id: str, what: str = "completed", at: float | None = None) -> dict:
    job = {"id": id, "name": f"job-{id}"}
    return {"id": id, "what": what, "at": time.time() if at is None else at, "job": job}


def test_what_is_noted_twice_is_sent_once(hook, receiver):
    outbox = Outbox.of(receiver)
    outbox.add(event("1"))
    outbox.add(event("1"))
    send_waiting(outbox)
    outbox.add(event("1"))
    send_waiting(outbox)

    assert told(hook) == ["completed"]
    assert outboxes() == []


@pytest.mark.thorough
def test_what_was_sent_when_its_process_died_comes_again_with_its_id(hook, receiver):
    Outbox.of(receiver).add(event("1"))
    ended = subprocess.run([sys.executable, "-c", DIES], capture_output=True)
    assert ended.returncode == 9, ended.stderr

    def is_sent_again() -> bool:
        subprocess.run([sys.executable, "-m", "flows.notifying"], check=True)
        return len(hook.requests) > 1

    until_now(is_sent_again)
    first, second = hook.requests
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert first.body == second.body
    assert outboxes() == []


def test_of_two_that_send_at_once_one_does(hook, receiver):
    outbox = Outbox.of(receiver)
    outbox.add(event("1"))
    threads = [threading.Thread(target=send_waiting, args=(outbox,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(hook.requests) == 1


def test_a_receiver_that_is_away_is_told_later_and_warned_of_once(
    hook, receiver, monkeypatch, caplog
):
    monkeypatch.setattr(grouping, "PAUSES", (0.0,))
    hook.next.extend([503, 503, 503])
    outbox = Outbox.of(receiver)
    outbox.add(event("1"))
    with caplog.at_level(logging.INFO):
        for _ in range(4):
            send_waiting(outbox)

    assert len(hook.requests) == 4
    assert outboxes() == []
    said = [record.getMessage() for record in caplog.records if record.name != "httpx"]
    assert [text.partition(" ")[2] for text in said] == [
        "a message is kept and sent again: The webhook at 127.0.0.1 answers 503. "
        "It is sent again; look at the receiver meanwhile.",
        "takes messages again",
    ]


def test_how_long_a_receiver_asks_us_to_wait_is_waited(hook, receiver):
    hook.next.append((429, {"Retry-After": "900"}))
    outbox = Outbox.of(receiver)
    outbox.add(event("1"))

    due = send_waiting(outbox).at

    assert due is not None
    assert 890 < due - time.time() <= 900
    assert send_waiting(outbox).at == due
    assert len(hook.requests) == 1


def test_what_nobody_took_for_days_is_given_up(hook, receiver, caplog):
    outbox = Outbox.of(receiver)
    outbox.add(event("old", at=time.time() - 4 * DAY))
    outbox.add(event("new"))
    send_waiting(outbox)

    assert [e["id"] for one in hook.requests for e in one.json["events"]] == ["new"]
    assert "given up" in caplog.text


def test_a_variable_that_is_not_set_here_leaves_it_to_another_process(hook, monkeypatch, caplog):
    monkeypatch.delenv("CHAT_URL", raising=False)
    outbox = Outbox.of(Destination(to="CHAT_URL"))
    outbox.add(event("1"))
    send_waiting(outbox)

    assert "CHAT_URL is not set here" in caplog.text
    assert outbox.has_waiting()


def test_it_gathers_at_first_unless_it_is_in_a_hurry(hook, receiver, monkeypatch):
    monkeypatch.setattr(grouping, "GATHER_SECONDS", 60.0)
    outbox = Outbox.of(receiver)
    outbox.add(event("1"))

    assert send_waiting(outbox).at > time.time() + 50
    assert sending.send_waiting(outbox, hurry=True).at is None
    assert told(hook) == ["completed"]


def test_no_file_of_an_outbox_holds_a_secret(hook, home, monkeypatch):
    monkeypatch.setenv("CHAT_URL", hook.url.replace("http://", "ntfy://u:TIiajkdnlazkc@") + "/x")
    outbox = Outbox.of(Destination(to="CHAT_URL"))
    outbox.add(event("1"))
    send_waiting(outbox, hurry=True)

    assert hook.requests
    files = [path for path in home.rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if b"TIiajkdnlazkc" in path.read_bytes()]
