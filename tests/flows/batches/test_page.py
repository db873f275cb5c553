"""The page of a batch: a table, and a picture of when each job waited and ran."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4
from xml.etree import ElementTree

import pytest

from flows.batches.gantt import MAX_ROWS, Line, gantt
from flows.batches.page import html, markdown, rows, summary
from flows.batches.publishing import key_of
from flows.scheduling.labels import AFTER, PREFIX
from gateway.prefect.client import JobRun
from trainer.contract.job_directory import JobState

NOW = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)


def run(name: str, type: str, after: str = "", **at: Any) -> JobRun:
    """Return a run that was submitted 100 s ago; times are seconds from then."""
    times = {
        key: (NOW + timedelta(seconds=at[key] - 100)).isoformat() for key in at if key != "message"
    }
    state = {
        "type": type,
        "name": type.title(),
        "message": at.get("message"),
        "timestamp": times.get("end_time"),
    }
    value = {
        "id": str(uuid4()),
        "name": name,
        "state": state,
        "created": times.pop("created", None),
    }
    value |= {"labels": {f"{PREFIX}job": name, AFTER: after}, **times}
    value["created"] = value["created"] or (NOW - timedelta(seconds=100)).isoformat()
    return JobRun.of(value)


RUNS = [
    run("base", "COMPLETED", start_time=10, end_time=40),
    run("tune", "RUNNING", "base:ok", start_time=45, message="the training is followed"),
    run("bad<b>|x", "FAILED", start_time=0, end_time=20, message="OutOfMemory: too | much."),
    run("rest", "PAUSED", start_time=5, end_time=15),
    run("last", "SCHEDULED", "tune:any"),
]


def test_the_table_says_where_each_job_is_and_why():
    found = rows(RUNS, NOW)
    text = markdown("nightly", found, NOW)

    assert summary(found) == "1 running, 1 waiting, 1 paused, 1 failed, 1 completed"
    assert f"| [base](/runs/flow-run/{RUNS[0].id}) | completed |  | 0:10 | 0:30 |  |" in text
    assert "| running | base | 0:45 | 0:55 |  |" in text
    assert "| waiting | tune (any) | 1:40 | – | comes after job tune, which runs |" in text
    assert "OutOfMemory: too \\| much." in text
    assert "| paused |  | 0:05 | 0:10 |  |" in text
    assert "[bad b \\|x]" in text


def test_the_page_is_a_file_of_its_own_whatever_is_in_the_names():
    page = html("a<script>", rows(RUNS, NOW), NOW, {str(RUNS[0].id): 'http://x/"y'})

    assert "<script" not in page
    assert "bad&lt;b&gt;|x" in page
    assert 'href="http://x/&quot;y"' in page
    assert "prefers-color-scheme:dark" in page


def test_the_picture_has_a_bar_for_each_stretch_and_a_line_for_what_comes_after():
    svg = gantt([row.line for row in rows(RUNS, NOW)], NOW)

    drawn = re.sub(r"<style>.*?</style>", "", svg, flags=re.DOTALL)
    tree = ElementTree.fromstring(drawn)  # noqa: S314 - a picture of ours
    bars = [e for e in tree.iter() if e.tag.endswith("rect") and float(e.get("y", 0)) > 40]
    kinds = [e.get("class") for e in bars]
    assert [kind for kind in kinds if kind != "waits"] == [
        "completed",
        "running",
        "failed",
        "paused",
    ]
    widths = {e.get("class"): float(e.get("width", 0)) for e in bars}
    assert widths["running"] / widths["completed"] == pytest.approx(55 / 30, rel=0.01)
    assert sum(e.get("class") == "link" for e in tree.iter()) == 2
    assert all(0 <= float(e.get("x", 0)) <= 860 for e in tree.iter())


@pytest.mark.parametrize("seconds", [0, 1, 59, 3600, 86400, 40 * 86400])
def test_ticks_are_round_and_few_for_any_length(seconds: int):
    line = Line(
        name="a",
        state=JobState.COMPLETED,
        submitted=NOW,
        began=NOW,
        ended=NOW + timedelta(seconds=seconds),
    )

    labels = re.findall(r'text-anchor="middle">([^<]+)<', gantt([line], NOW))

    assert 1 <= len(labels) <= 9
    assert gantt([], NOW).startswith("<svg")


def test_a_picture_of_thousands_stays_readable():
    many = [Line(name=f"j{n}", state=JobState.CREATED, submitted=NOW) for n in range(1200)]

    svg = gantt(many, NOW + timedelta(hours=1))

    assert f"and {1200 - MAX_ROWS:,} more" in svg


def test_keys_are_what_prefect_takes_and_no_two_names_share_one():
    assert key_of("nightly-2") == "batch-nightly-2"
    keys = {key_of(name) for name in ("a.b", "a-b", "A.b", "a_b", "...a")}
    assert len(keys) == 5
    assert all(re.fullmatch(r"[a-z0-9-]+", key) for key in keys)
