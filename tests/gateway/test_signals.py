"""A signal is told once it is wanted, wherever the program is as it comes."""

from __future__ import annotations

import os
import signal
import sys

import pytest

from gateway.cli.signals import Signals, Told


class HungUpAsItGoes:
    """The terminal closes just as Python destroys this."""

    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGHUP)


def test_a_signal_whose_exception_python_drops_is_told_at_the_next_wait(
    monkeypatch: pytest.MonkeyPatch,
):
    dropped: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda args: dropped.append(args.exc_type))
    with Signals() as signals:
        signals.raise_from_now(signal.SIGHUP)
        HungUpAsItGoes()  # destroyed at once

        assert dropped == [Told]
        with pytest.raises(Told, match="SIGHUP"):
            signals.wait(60)


def test_a_signal_that_came_before_it_was_wanted_is_told_then():
    with Signals() as signals:
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.wait(60) == []

        with pytest.raises(Told, match="SIGTERM"):
            signals.raise_from_now(signal.SIGTERM)
