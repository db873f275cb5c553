"""`trainctl preview` shows what is learned of a row, and refuses what it cannot show."""

from __future__ import annotations

import json

import pytest

from tests.gateway.commanding import call_here, job_file

pytestmark = pytest.mark.xdist_group("torch")  # which it imports, in this process


def test_a_row_is_shown_as_it_is_learned(tmp_path, capfd):
    path = job_file(tmp_path)

    done = call_here(capfd, "preview", path, "--row", "2", "--rows", "2")

    assert done.returncode == 0, done.stderr
    assert "row 2, " in done.stdout
    assert "row 3, " in done.stdout
    assert "tokens learned" in done.stdout
    assert "«" in done.stdout.split("row 2, ")[1]


@pytest.mark.thorough
def test_a_row_is_shown_to_programs(tmp_path, capfd):
    shown = json.loads(call_here(capfd, "preview", job_file(tmp_path), "--json").stdout)["rows"]

    assert shown[0]["learned"] > 0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"trainer": "command", "command": {"run": ["true"]}}, "only command knows"),
        pytest.param(
            {"dataset": {"path": "./none.jsonl"}}, "none.jsonl", marks=pytest.mark.thorough
        ),
    ],
)
def test_what_cannot_be_shown_is_refused(tmp_path, capfd, changes, words):
    done = call_here(capfd, "preview", job_file(tmp_path, **changes))

    assert done.returncode == 2
    assert words in done.stderr


@pytest.mark.thorough
def test_a_row_beyond_the_last_is_refused(tmp_path, capfd):
    done = call_here(capfd, "preview", job_file(tmp_path), "--row", "100000")

    assert done.returncode == 2
    assert "--row 100000: there are fewer rows" in done.stderr
