"""`trainctl serve`, `agent` and `worker` as processes of their own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.waiting import PATIENCE, until_now

TRAINCTL = (sys.executable, "-P", "-m", "gateway")


def variables(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of this process with some variables otherwise; an empty one is removed."""
    given = {**os.environ, **environ}
    return {name: value for name, value in given.items() if value}


@contextmanager
def process_of(
    folder: Path, *words: str, seen: str, environ: Mapping[str, str] | None = None
) -> Iterator[tuple[subprocess.Popen[bytes], re.Match[str]]]:
    """Run a command of `trainctl` in a folder, where its log is; it is gone afterwards.

    Args:
        folder: in which it runs.
        words: the command and its arguments.
        seen: a pattern, which its log shows once it is ready.
        environ: variables that are set otherwise than here; an empty one is removed.
    """
    log = folder / f"{words[0]}-{len(list(folder.glob('*.log')))}.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [*TRAINCTL, *words],
            env=variables(environ or {}),
            cwd=folder,
            stdout=stream,
            stderr=stream,
        )
    try:
        found = until_now(
            lambda: process.poll() is not None or re.search(seen, log.read_text()), 2 * PATIENCE
        )
        assert process.poll() is None, log.read_text()
        yield process, found
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        process.wait(60)


@contextmanager
def service(
    folder: Path, command: str = "serve", *words: str, environ: Mapping[str, str] | None = None
) -> Iterator[str]:
    """Run `trainctl serve`, or `agent`, on a free port; yield its address."""
    seen = r"serving (http://\S+) \(its"
    given = (command, "--port", "0", *words)
    with process_of(folder, *given, seen=seen, environ=environ) as (process, found):
        # It says so before it has connected to everything.
        until_now(lambda: process.poll() is not None or _answers(found[1]), 2 * PATIENCE)
        yield found[1]


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=PATIENCE).is_success
    except httpx.TransportError:
        return False


@contextmanager
def prefect_of_its_own(folder: Path) -> Iterator[dict[str, str]]:
    """Yield the variables by which commands share a home, and a Prefect server that they start."""
    environ = {
        "TRAINING_ORCHESTRATOR_HOME": str(folder / "home"),
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_API_URL": "",
    }
    try:
        yield environ
    finally:
        subprocess.run(
            [*TRAINCTL, "server", "stop"],
            env=variables(environ),
            check=True,
            timeout=120,
            capture_output=True,
        )
