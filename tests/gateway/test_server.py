"""The Prefect server is started once, kept, and found again."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess
from threading import Thread

import psutil
import pytest
from commanding import call_trainctl

from gateway import server
from trainer.files import replace_json


@pytest.fixture
def alone(home: Path, tmp_path: Path) -> Iterator[Callable[..., CompletedProcess[str]]]:
    """Return `trainctl` where Prefect is not configured at all."""
    environment = {
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "TRAINING_ORCHESTRATOR_HOME": str(home),
    }
    yield lambda *arguments: call_trainctl(*arguments, **environment)
    call_trainctl("server", "stop", **environment)


@pytest.mark.slow
def test_the_server_is_started_once_and_kept_and_stopped(
    alone: Callable[..., CompletedProcess[str]], monkeypatch: pytest.MonkeyPatch
):
    with socket.socket() as taken:  # by something that is no Prefect
        taken.bind((server.HOST, 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        monkeypatch.setenv("PREFECT_SERVER_API_PORT", port)
        Thread(target=_hang_up, args=(taken,), daemon=True).start()
        first = alone("list")
        taken.shutdown(socket.SHUT_RDWR)

    assert (first.returncode, first.stdout) == (0, "no jobs\n"), first.stderr
    assert "starting the Prefect server" in first.stderr
    known = server.known()
    assert known
    assert port not in known.url
    assert "starting" not in alone("list").stderr
    assert json.loads(alone("server", "status", "--json").stdout)["pid"] == known.pid
    assert alone("server", "stop").stdout == f"stopped {known.url}\n"
    assert server.known() is None


def _hang_up(listener: socket.socket) -> None:
    try:
        while True:
            listener.accept()[0].close()
    except OSError:
        return


def test_a_process_id_that_was_used_again_is_not_our_server():
    record = {"pid": os.getpid(), "url": "http://127.0.0.1:1/api", "started": 1.0}
    replace_json(server.record_file(), record)

    assert server.known() is None
    assert server.stop() is None
    replace_json(server.record_file(), {**record, "started": psutil.Process().create_time()})
    assert server.known() is not None


def test_a_damaged_record_is_no_server():
    server.record_file().write_text('{"pid": 1}')

    assert server.known() is None


def test_what_does_not_answer_is_no_prefect():
    with socket.socket() as listener:
        listener.bind((server.HOST, 0))
        url = f"http://{server.HOST}:{listener.getsockname()[1]}/api"

        assert not server.answers(url)
