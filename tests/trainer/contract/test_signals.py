from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from trainer.contract.signals import NOTICE, VARIABLE, ending, requests

# Says which signals reached it; the last one, a request in both cases, ends it.
PROGRAM = """
import signal, sys
from trainer.supervision.process import Bell
bell = Bell()
print("on", flush=True)
while "SIGINT" not in bell.requests:
    bell.wait(10)
print(sorted(bell.requests))
"""


def test_sigterm_is_a_request_where_nothing_else_is_said(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)

    assert requests() == {signal.SIGTERM, signal.SIGINT}
    assert ending() is signal.SIGTERM


@pytest.mark.parametrize(
    ("value", "heard"), [("", "['SIGINT', 'SIGTERM']"), (NOTICE, "['SIGINT']")]
)
def test_a_supervisor_passes_over_sigterm_where_it_is_only_a_notice(value, heard):
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, VARIABLE: value},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stdout.readline() == "on\n"

    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGINT)

    said, _ = process.communicate(timeout=60)
    assert said.strip() == heard
