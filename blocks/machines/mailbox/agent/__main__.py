"""Obeys the mailbox that the environment names; see the package."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

from blocks.machines.mailbox.agent.opening import opened
from blocks.machines.mailbox.agent.postman import Postman

FOLDER = ".training-orchestrator"
POLL = "1 0.25"  # seconds between two looks for a command: without, and while commands come


def main() -> None:
    """Obey until the lease is over, or the machine is taken back."""
    _bury_the_dead()
    if home := os.environ.get("TRAINING_ORCHESTRATOR_MACHINE_HOME"):
        os.environ["HOME"] = home
    base = Path.home() / FOLDER
    base.mkdir(mode=0o700, parents=True, exist_ok=True)
    (base / "agent.pid").write_text(f"{os.getpid()}\n", encoding="ascii")
    # Beside the agent and before it: it ends the machine that nobody ever reaches.
    first = os.environ.get("TRAINING_ORCHESTRATOR_FIRST_SCRIPT", "")
    if first and Path(first).exists():
        subprocess.Popen(["sh", first], stdin=subprocess.DEVNULL, start_new_session=True)  # noqa: S603, S607
    options = json.loads(os.environ.get("TRAINING_ORCHESTRATOR_MAILBOX_OPTIONS", "{}"))
    # Not for what runs here: a signed address is as good as a key.
    url = os.environ.pop("TRAINING_ORCHESTRATOR_MAILBOX")
    bucket = opened(url, options, base / "agent-packages")
    idle, lively = map(float, os.environ.get("TRAINING_ORCHESTRATOR_POLL", POLL).split())
    postman = Postman(bucket, base, idle=idle, lively=lively)
    signal.signal(signal.SIGTERM, lambda *_: postman.taken_back.set())
    signal.signal(signal.SIGUSR1, lambda *_: postman.over.set())
    postman.work()


def _bury_the_dead() -> None:
    """As the first process of a container, wait for those that nobody else waits for.

    The agent itself is then a child, and gets the signals that are meant for it.
    """
    if os.getpid() != 1 or not (child := os.fork()):
        return
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        signal.signal(number, lambda number, _: os.kill(child, number))
    while True:
        ended, status = os.wait()
        if ended == child:
            os._exit(max(0, os.waitstatus_to_exitcode(status)))


main()
