"""Each step becomes one point, once, as the platform's contract has it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.reporting import points as points_module
from flows.reporting.points import MOST_POINTS, as_point, next_points
from flows.reporting.spool import DeliveryCursor
from tests.flows.reporting.receiver import lines_of
from trainer.contract.metrics import read_metrics


def all_points(path, cursor=None, *, at_rest=True):
    """Deliver batch after batch until nothing moves; return the points and the cursor."""
    cursor, found = cursor or DeliveryCursor(), []
    while True:
        points, after = next_points(path, cursor, at_rest=at_rest)
        if after == cursor:
            return found, cursor
        assert len(points) <= MOST_POINTS
        found, cursor = found + points, after


def test_a_point_has_the_contracts_names_and_no_others():
    record = json.loads(lines_of([150])) | {"gpu_utilization_percent": 97.5}

    assert as_point(record) == {
        "step": 150,
        "epoch": 1,
        "train_loss": 5 / 151,
        "learning_rate": 5e-5,
        "grad_norm": 0.5,
        "samples_per_second": 12.5,
        "gpu_utilization_percent": 97.5,
        "perplexity": 2.0,
        "timestamp": "2026-01-01T10:00:00.000Z",
    }


def test_the_newest_step_waits_for_its_evaluation(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(lines_of([1, 2]))
    first, cursor = all_points(path, at_rest=False)
    with path.open("a") as stream:
        stream.write(lines_of([2], evaluate=1).splitlines(keepends=True)[1])
        stream.write(lines_of([3]))

    second, _ = all_points(path, cursor, at_rest=False)

    assert [point["step"] for point in first + second] == [1, 2]
    assert second[0]["train_loss"] == 5 / 3
    assert second[0]["eval_loss"] == 0.42


def test_steps_that_a_resumed_training_repeats_are_reported_once(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(lines_of(range(1, 31)))
    first, cursor = all_points(path, at_rest=False)
    with path.open("a") as stream:
        stream.write(lines_of(range(11, 41), attempt=2))

    second, cursor = all_points(path, cursor)

    assert [point["step"] for point in first + second] == list(range(1, 41))
    assert cursor.offset == path.stat().st_size


def test_an_evaluation_that_came_after_its_step_was_reported_is_not_lost(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(lines_of([29, 30]))
    _, cursor = all_points(path)
    with path.open("a") as stream:
        stream.write(lines_of([29, 30], attempt=2, evaluate=30))

    late, _ = all_points(path, cursor)

    assert [(point["step"], point["eval_loss"]) for point in late] == [(30, 0.42)]
    assert "train_loss" not in late[0]


def test_more_repeated_steps_than_the_buffer_holds_block_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(points_module, "READ_BYTES", 2000)
    path = tmp_path / "metrics.jsonl"
    path.write_text(lines_of(range(1, 51)) + lines_of(range(1, 61), attempt=2))

    found, _ = all_points(path, at_rest=False)

    assert [point["step"] for point in found] == list(range(1, 60))


def test_an_unfinished_line_waits_and_rubbish_is_passed_over(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(lines_of([1]) + "rubbish\n[1]\n" + lines_of([2]) + lines_of([3])[:-20])

    found, cursor = all_points(path)

    assert [point["step"] for point in found] == [1, 2]
    assert cursor.offset < path.stat().st_size


@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(1, 60)), min_size=1, max_size=5),
    st.lists(st.integers(1, 4000), max_size=12),
)
@pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisWarning")
def test_however_training_was_interrupted_every_step_is_reported_once_in_order(
    tmp_path_factory, attempts, sizes
):
    path = tmp_path_factory.mktemp("metrics") / "metrics.jsonl"
    text, last = "", 0
    for number, (back, count) in enumerate(attempts):
        first = max(1, last - back + 1)
        text += lines_of(range(first, first + count), attempt=number, evaluate=7)
        last = max(last, first + count - 1)
    content, found, cursor = text.encode(), [], DeliveryCursor()
    path.write_bytes(b"")
    for size in [*sizes, len(content)]:
        grown = content[: path.stat().st_size + size]
        path.write_bytes(grown)
        points, cursor = all_points(path, cursor, at_rest=False)
        found += points
    points, _ = all_points(path, cursor)
    found += points

    steps, _ = read_metrics(path)
    assert [point["step"] for point in found] == list(steps)
    assert {p["step"] for p in found if "eval_loss" in p} == {s for s in steps if s % 7 == 0}
