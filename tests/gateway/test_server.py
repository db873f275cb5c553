"""The Prefect server is started once, kept, and found again."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess
from urllib.parse import urlsplit

import psutil
import pytest

from gateway.prefect import server, server_status
from tests.gateway.commanding import call_trainctl
from trainer.contract.files import replace_json


@pytest.fixture
def alone(
    home: Path, tmp_path: Path, empty_database: Path
) -> Iterator[Callable[..., CompletedProcess[str]]]:
    """Return `trainctl` where Prefect is not configured at all."""
    (tmp_path / "prefect").mkdir()
    shutil.copy(empty_database, tmp_path / "prefect" / "prefect.db")
    environment = {
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "TRAINING_ORCHESTRATOR_HOME": str(home),
    }
    yield lambda *arguments: call_trainctl(*arguments, **environment)
    call_trainctl("server", "stop", **environment)


@pytest.mark.slow
def test_our_own_server_is_started_once_beside_somebody_elses_and_kept_and_stopped(
    alone: Callable[..., CompletedProcess[str]],
    prefect_server: str,
    monkeypatch: pytest.MonkeyPatch,
):
    port = str(urlsplit(prefect_server).port)
    monkeypatch.setenv("PREFECT_SERVER_API_PORT", port)  # where one is looked for

    first = alone("list")

    assert (first.returncode, first.stdout) == (0, "no jobs\n"), first.stderr
    assert "starting the Prefect server" in first.stderr
    assert f"port {port} belongs to another Prefect server; ours takes port" in first.stderr
    known = server.known()
    assert known
    assert known.url != prefect_server
    assert f"answers at {known.url}" in first.stderr
    assert "starting" not in alone("list").stderr
    status = json.loads(alone("server", "status", "--json").stdout)
    assert (status["pid"], status["used"], status["configured_by"]) == (known.pid, known.url, None)
    assert alone("server", "stop").stdout == f"stopped {known.url}\n"
    assert server.known() is None


@pytest.mark.parametrize(
    ("where", "content", "place"),
    [
        (".env", "PREFECT_API_URL=http://127.0.0.1:9/api", "PREFECT_API_URL in .env"),
        ("prefect.toml", '[api]\nurl = "http://127.0.0.1:9/api"', "api.url in prefect.toml"),
        (
            "profiles.toml",
            'active = "a"\n[profiles.a]\nPREFECT_API_URL = "http://127.0.0.1:9/api"',
            "PREFECT_API_URL in Prefect's active profile",
        ),
    ],
)
def test_the_status_says_what_configures_the_server_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, content: str, place: str
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    (tmp_path / where).write_text(content)

    assert server_status.as_words(server_status.status()) == [
        f"in use: http://127.0.0.1:9/api, configured by {place}",
        "health: Prefect's API at http://127.0.0.1:9/api does not answer: Connection refused. "
        "Check PREFECT_API_URL, or unset it: trainctl then starts a server of its own.",
        "our own: not running",
    ]


def test_the_environment_comes_before_all_else(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PREFECT_API_URL", "ftp://here/api")

    assert (
        "configured by PREFECT_API_URL in the environment"
        in server_status.as_words(server_status.status())[0]
    )


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
