"""`trainctl` in a real terminal: one that closes, and a person who presses Ctrl-C at any moment."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from gateway.prefect import server
from tests.gateway.commanding import call_trainctl, job_file, job_file_of, patient_job_file
from tests.stand_in import stand_in
from tests.waiting import until_now

pytestmark = [
    pytest.mark.xdist_group("trainctl-run"),
    pytest.mark.usefixtures("warm_trainers"),
]
CTRL_C = b"\x03"
SECONDS = 120.0
TRAINCTL = (sys.executable, "-P", "-m", "gateway")


class Terminal:
    """A terminal in which one command runs."""

    def __init__(self, *words: object, **environment: str) -> None:
        self.seen = ""
        self.pid, self._master = pty.fork()
        if self.pid == 0:
            os.environ.update(environment)
            os.execv(str(words[0]), [str(word) for word in words])  # noqa: S606
        os.set_inheritable(self._master, False)  # else another process keeps the terminal open
        self._code: int | None = None

    def until(self, pattern: str) -> re.Match[str]:
        """Read on until the command has printed something; forget it."""
        deadline = time.monotonic() + SECONDS
        while not (match := re.search(pattern, self.seen)):
            if time.monotonic() > deadline or not self._read():
                pytest.fail(f"{pattern!r} was not printed:\n{self.seen}")
        self.seen = self.seen[match.end() :]
        return match

    def press(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def hang_up(self) -> None:
        """Close the terminal, as when its window is closed or the connection is lost."""
        os.close(self._master)
        self._master = -1

    def code(self) -> int:
        """Wait for the command's end and return its exit code; -N: it died by signal N."""
        while self._master >= 0 and self._read():
            pass
        if self._code is None:
            self._code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self._code

    def close(self) -> None:
        if self._code is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        if self._master >= 0:
            os.close(self._master)

    def _read(self) -> bool:
        if not select.select([self._master], [], [], 1.0)[0]:
            return True
        try:
            chunk = os.read(self._master, 1 << 16)
        except OSError:  # nobody has the other end any more
            return False
        self.seen += chunk.decode(errors="replace")
        return bool(chunk)


class Desk:
    """Terminals with one home and one Prefect server."""

    def __init__(self, **environment: str) -> None:
        self._environment = environment
        self._terminals: list[Terminal] = []

    def run(self, *words: object) -> Terminal:
        terminal = Terminal(*words, **self._environment)
        self._terminals.append(terminal)
        return terminal

    def trainctl(self, *words: object) -> Terminal:
        return self.run(*TRAINCTL, *words)

    def status(self, job: str) -> dict[str, str]:
        done = call_trainctl("status", job, "--json", **self._environment)
        return json.loads(done.stdout)

    def close(self) -> None:
        for terminal in self._terminals:
            terminal.close()


@pytest.fixture
def desk(prefect_server: str, home: Path) -> Iterator[Desk]:
    desk = Desk(PREFECT_API_URL=prefect_server, TERM="xterm", COLUMNS="120")
    yield desk
    desk.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "code"), [("hang up", 129), pytest.param("SIGTERM", 143, marks=pytest.mark.thorough)]
)
def test_a_job_goes_on_without_its_terminal(desk: Desk, tmp_path: Path, how: str, code: int):
    go = tmp_path / "go"
    path = job_file_of(stand_in(tmp_path, "--hold", 15, "--go", go), tmp_path)
    terminal = desk.trainctl("run", path)
    job = terminal.until(r"job ([0-9a-f-]{36})")[1]
    terminal.until("running")

    if how == "hang up":
        terminal.hang_up()
    else:
        os.kill(terminal.pid, signal.SIGTERM)
        terminal.until(f"job {job} goes on in the background")

    assert terminal.code() == code
    assert desk.status(job)["state"] in {"initializing", "running"}
    go.touch()
    assert desk.trainctl("monitor", job, "--follow").code() == 0


@pytest.mark.slow
def test_ctrl_c_asks_and_the_answers_are_obeyed(desk: Desk, tmp_path: Path):
    terminal = desk.trainctl("run", patient_job_file(tmp_path))
    job = terminal.until(r"job ([0-9a-f-]{36})")[1]
    terminal.until("running")

    terminal.press(CTRL_C)
    terminal.until("ontinue \\?")
    terminal.press(b"c\n")
    terminal.until(r"ETA")
    terminal.press(CTRL_C)
    terminal.until("ontinue \\?")
    terminal.press(b"d\n")
    terminal.until(f"job {job} goes on in the background")
    assert terminal.code() == 0

    follower = desk.trainctl("monitor", job, "--follow")
    follower.until("running")
    follower.press(CTRL_C)
    assert follower.code() == 130
    assert "Traceback" not in follower.seen

    assert desk.status(job)["state"] == "running"
    assert desk.trainctl("cancel", job).code() == 0


@pytest.mark.slow
@pytest.mark.thorough
def test_ctrl_c_once_more_leaves_and_the_job_stops_all_the_same(desk: Desk, tmp_path: Path):
    terminal = desk.trainctl("run", patient_job_file(tmp_path))
    job = terminal.until(r"job ([0-9a-f-]{36})")[1]
    terminal.until("ETA")  # a step is done, so there is something to save

    terminal.press(CTRL_C)
    terminal.until("ontinue \\?")
    terminal.press(CTRL_C)
    terminal.until("Ctrl-C again leaves")
    terminal.press(CTRL_C)

    assert terminal.code() == 130
    until_now(lambda: desk.status(job)["state"] == "stopped")
    assert re.match(r"cancelled; saved at step [1-9]", desk.status(job)["message"])


@pytest.mark.thorough
@pytest.mark.slow
def test_ctrl_c_in_a_pipe_stops_the_job_and_says_130(desk: Desk, tmp_path: Path):
    said = tmp_path / "said"
    script = f'trap : INT; {" ".join(TRAINCTL)} run {patient_job_file(tmp_path)} | tee {said}; echo "code ${{PIPESTATUS[0]}}"'
    terminal = desk.run("/bin/bash", "-c", script)
    terminal.until("running")

    terminal.press(CTRL_C)

    assert terminal.until(r"code (\d+)")[1] == "130"
    job = said.read_text().split()[1]
    until_now(lambda: desk.status(job)["state"] == "stopped")


def test_ctrl_c_while_a_job_is_looked_at(desk: Desk, tmp_path: Path):
    terminal = desk.trainctl("validate", job_file(tmp_path))
    terminal.until("reading the dataset")

    terminal.press(CTRL_C)

    assert terminal.code() == 130
    assert "Traceback" not in terminal.seen


@pytest.mark.slow
def test_ctrl_c_while_the_server_starts(home: Path, tmp_path: Path):
    desk = Desk(PREFECT_HOME=str(tmp_path / "prefect"), TERM="xterm")
    try:
        terminal = desk.trainctl("list")
        terminal.until("starting the Prefect server")
        terminal.press(CTRL_C)
        assert terminal.code() == 130
        assert "Traceback" not in terminal.seen
    finally:
        desk.close()
        subprocess.run([*TRAINCTL, "server", "stop"], check=True, capture_output=True)
    assert server.known() is None
