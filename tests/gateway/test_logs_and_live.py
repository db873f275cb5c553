"""Reading a log while it grows, and showing a job while it runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from gateway.cli.live import PlainDisplay, panel
from gateway.cli.logs import MirrorReader
from gateway.view import view_of

VIEW = view_of(
    "0193-0000-1a2b3c4d",
    "quickstart",
    "running",
    "",
    {s: {"step": s, "total_steps": 40, "train_loss": 5.0 - s, "eta_seconds": 65} for s in (1, 2)},
)


def test_a_line_without_an_end_waits(tmp_path: Path):
    path = tmp_path / "train.log"
    path.write_bytes(b"one\ntw")
    reader = MirrorReader(path)

    assert reader.read() == ["one"]
    assert reader.unfinished() == "tw"
    path.write_bytes(b"one\ntwo\nthree\n")
    assert reader.read() == ["two", "three"]
    assert reader.unfinished() == ""


def test_a_log_that_is_not_there_yet_is_empty(tmp_path: Path):
    assert MirrorReader(tmp_path / "train.log").read() == []


def test_a_redrawn_line_shows_its_last_drawing_and_no_control_codes(tmp_path: Path):
    path = tmp_path / "train.log"
    path.write_bytes(b"10%\r50%\r100%\r\n\x1b[2Jcleared \xff\n")

    assert MirrorReader(path).read() == ["100%", " [2Jcleared \ufffd"]


def test_lines_come_when_the_state_changes_and_not_for_every_number(
    capsys: pytest.CaptureFixture[str],
):
    lines = PlainDisplay()

    for view in (VIEW, VIEW, replace(VIEW, step=3), replace(VIEW, state="pausing")):
        lines.show(view)

    out = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in out] == ["running", "pausing"]
    assert "\x1b" not in "".join(out)


def test_the_panel_shows_bar_losses_and_time():
    console = Console(width=100, force_terminal=False)

    with console.capture() as capture:
        console.print(panel(VIEW))

    text = capture.get()
    for part in ("quickstart", "running", "1a2b3c4d", "2/40", "5%", "ETA 1:05", "loss 3", "█▁"):
        assert part in text
