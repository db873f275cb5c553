"""What of Prefect's log reaches people."""

from __future__ import annotations

import logging
import threading

from prefect._internal.concurrency.services import QueueService

from flows.logger import OneLine
from tests.waiting import PATIENCE

asked_to_end = threading.Event()


class Sender(QueueService[int]):
    """A queue of Prefect's, as those of its log and its events, that is full when the end comes."""

    async def _handle(self, item: int) -> None:
        asked_to_end.wait(PATIENCE)


def test_what_prefect_still_sends_at_the_end_is_no_warning_and_all_else_is(caplog):
    lines: list[str] = []
    handler = OneLine(lines.append)
    logging.getLogger().addHandler(handler)
    try:
        sender = Sender.instance()
        for item in range(4):
            sender.send(item)
        ended = sender._drain()
        asked_to_end.set()
        ended.result(60)
        logging.getLogger("Sender").warning("the disk is full\nin a second line")
    finally:
        logging.getLogger().removeHandler(handler)

    assert any("Still processing items" in message for message in caplog.messages)
    assert lines == ["warning: the disk is full"]


def test_a_mistake_in_a_log_call_ends_nothing(monkeypatch, capsys):
    log = logging.getLogger("one-line-test")
    monkeypatch.setattr(log, "propagate", False)  # pytest's own handlers raise it
    log.addHandler(handler := OneLine(print))

    log.warning("%(absent)s", {"key": 1})

    log.removeHandler(handler)
    assert "--- Logging error ---" in capsys.readouterr().err
