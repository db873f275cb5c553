"""The Prefect server of this installation: started once in the background, and kept.

Nothing here imports Prefect; the server is a process of its own.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from blocks.home import home
from gateway.exits import ApiUnreachable, note
from gateway.prefect import attendant
from trainer.contract.files import read_json, replace_json
from trainer.contract.own_python import own_python

HOST = "127.0.0.1"
PORT = 4200  # Prefect's own; PREFECT_SERVER_API_PORT chooses another, as it does for Prefect
START_SECONDS = 120.0
STOP_SECONDS = 15.0
POLL_SECONDS = 0.2
SETTINGS = {
    # Prefect reports the use of a server to its maker unless this is off; a user may turn it on.
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    # Else a schedule of every minute would show 60 runs in advance: the scheduler plans an hour.
    "PREFECT_SERVER_SERVICES_SCHEDULER_MIN_SCHEDULED_TIME": "PT5M",
    # Prefect names what waits for 15 s "Late", ten runs at a time, each in a transaction that reads
    # before it writes. With SQLite that lets nobody else write for up to a minute. And it tells less
    # than we do: why a job waits.
    "PREFECT_SERVER_SERVICES_LATE_RUNS_ENABLED": "false",
    # Twenty events in a transaction are half of what a hundred runs that begin have it write.
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_BATCH_SIZE": "200",
}
"""What a server of ours is started with, where the environment does not say otherwise."""


@dataclass(frozen=True, slots=True)
class Server:
    """A Prefect server that this installation started."""

    pid: int
    url: str
    """Its API, such as http://127.0.0.1:4200/api."""
    started: float
    """When the process began, in seconds since the epoch: a process id is used again."""

    @property
    def is_running(self) -> bool:
        """Whether the process lives."""
        try:
            process = psutil.Process(self.pid)
            return (
                # Two seconds of tolerance: the time is computed from the clock, which may be set
                # in between.
                abs(process.create_time() - self.started) < 2
                and process.status() != psutil.STATUS_ZOMBIE
            )
        except psutil.Error:
            return False


def record_file() -> Path:
    """Return the file that remembers the server."""
    return home() / "server.json"


def log_file() -> Path:
    """Return the file that the server writes its log to."""
    return home() / "server.log"


def known() -> Server | None:
    """Return the server that was started here, if it still runs."""
    record = read_json(record_file())
    try:
        server = Server(**record) if record else None
    except TypeError:
        return None
    return server if server and server.is_running else None


def answers(url: str, timeout: float = 2.0) -> bool:
    """Return whether a Prefect API answers at `url`, and is healthy."""
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=timeout) as answer:  # noqa: S310 - ours
            # Prefect's /health answers `true`. Another program on the port may answer 200 with a
            # page, so no more than a few bytes are read.
            return json.loads(answer.read(100)) is True
    except (OSError, ValueError):
        return False


def start() -> str:
    """Start our server unless it answers already; return the URL of its API.

    A server that another user or program started is never taken for ours; then we use another port.

    Raises:
        ApiUnreachable: it does not come up.
    """
    with _one_at_a_time():
        server = known()
        if server is None:
            port = _free_port()
            if port != (usual := _usual_port()):
                note(_whose(usual, port))
            server = _spawn(port)
            # Before it is healthy: a command that is interrupted here must not leave a server
            # unknown.
            replace_json(record_file(), asdict(server))
        _wait_until_healthy(server)
        attendant.start(replace=False)
        return server.url


def _whose(usual: int, port: int) -> str:
    """Return why our server has another port than people expect."""
    theirs = f"http://{HOST}:{usual}/api"
    if answers(theirs):
        return (
            f"port {usual} belongs to another Prefect server; ours takes port {port}. "
            f"To use that one: export PREFECT_API_URL={theirs}"
        )
    return f"port {usual} belongs to another program; our Prefect server takes port {port}"


def stop() -> Server | None:
    """Stop the server that was started here; return it, or None if none runs.

    Raises:
        ApiUnreachable: it does not end.
    """
    attendant.stop()
    with _one_at_a_time():
        server = known()
        if server is None:
            return None
        os.killpg(server.pid, signal.SIGTERM)  # it leads a session of its own
        deadline = time.monotonic() + STOP_SECONDS
        while server.is_running:
            if time.monotonic() > deadline:
                raise ApiUnreachable(
                    f"The Prefect server, process {server.pid}, does not end.",
                    f"End it by hand: kill -9 -- -{server.pid}",
                )
            time.sleep(POLL_SECONDS)
        record_file().unlink(missing_ok=True)
        return server


def _spawn(port: int) -> Server:
    environment = {
        name: value
        for name, value in os.environ.items()
        # Else the pages of our server would talk to that API: PREFECT_UI_API_URL defaults to it.
        if name not in {"PREFECT_API_URL", "PREFECT_API_KEY"}
    }
    environment = SETTINGS | environment
    command = own_python("-m", "gateway.prefect.serving", "server", "start", "--host", HOST)
    with log_file().open("ab") as log:
        process = subprocess.Popen(  # noqa: S603 - our own interpreter
            [*command, "--port", str(port)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            # Its own folder: Prefect reads .env and prefect.toml of the working folder, which
            # belong to a project and not to the server of all.
            cwd=home(),
            start_new_session=True,
        )
    started = psutil.Process(process.pid).create_time()
    return Server(process.pid, f"http://{HOST}:{port}/api", started)


def _wait_until_healthy(server: Server) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not answers(server.url):
        if not server.is_running or time.monotonic() > deadline:
            what = "does not answer" if server.is_running else "ended at once"
            raise ApiUnreachable(
                f"The Prefect server {what}.", f"The cause is at the end of {log_file()}."
            )
        time.sleep(POLL_SECONDS)


def _usual_port() -> int:
    chosen = os.environ.get("PREFECT_SERVER_API_PORT", "")
    return int(chosen) if chosen.isdecimal() else PORT


def _free_port() -> int:
    """Return Prefect's usual port, or a free one if that is taken."""
    # Port 0 lets the kernel choose a free one.
    for port in (_usual_port(), 0):
        with socket.socket() as listener:
            # A port whose last connections are in TIME_WAIT counts as free, as it will for the
            # server.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind((HOST, port))
            except OSError:
                continue
            return int(listener.getsockname()[1])
    raise ApiUnreachable("No port is free for the Prefect server.", "End some programs.")


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Make commands that run at the same time start one server, not one each."""
    with (home() / "server.lock").open("w") as stream:
        # Dropped by the kernel with the process, so a command that is killed blocks no other.
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
