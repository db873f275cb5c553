"""What a person sees of a job."""

from __future__ import annotations

import pytest

from gateway.view import (
    duration,
    losses,
    number,
    plain_line,
    printable,
    sparkline,
    speed,
    view_of,
)

STEPS = {
    1: {"step": 1, "total_steps": 8, "train_loss": 4.0, "eval_loss": 5.0, "eta_seconds": 90.0},
    2: {"step": 2, "total_steps": 8, "train_loss": 3.0, "tokens_per_second": 1234.5, "ram_gb": 0.5},
    4: {"step": 4, "total_steps": 8, "eval_loss": 2.5, "eta_seconds": 61.0},
}


def test_a_sparkline_falls_as_the_loss_does():
    assert sparkline([8, 7, 6, 5, 4, 3, 2, 1]) == "█▇▆▅▄▃▂▁"


def test_a_sparkline_of_many_values_fits_its_cells():
    line = sparkline([float(x) for x in range(1000)], cells=10)

    assert len(line) == 10
    assert line[0] == "▁"
    assert line[-1] == "█"
    assert list(line) == sorted(line)


@pytest.mark.parametrize(("values", "line"), [([], ""), ([3.0], "▄"), ([2.0, 2.0], "▄▄")])
def test_a_sparkline_of_one_height_is_level(values: list[float], line: str):
    assert sparkline(values) == line


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "–"), (-1, "–"), (0, "0:00"), (59.6, "1:00"), (725, "12:05"), (11045, "3:04:05")],
)
def test_durations_are_hours_minutes_and_seconds(seconds: float | None, text: str):
    assert duration(seconds) == text


def test_numbers_keep_their_significant_digits():
    assert [number(None), number(2.34567), number(0.00001234)] == ["–", "2.346", "1.234e-05"]


def test_a_view_holds_the_newest_of_each_metric_and_the_first_evaluation():
    view = view_of("id", "name", "running", "", STEPS)

    assert (view.step, view.total_steps, view.share) == (4, 8, 0.5)
    assert (view.train_loss, view.eval_loss, view.eval_loss_first) == (3.0, 2.5, 5.0)
    assert view.losses == (4.0, 3.0)
    assert (view.eta_seconds, view.memory_gb) == (61.0, 0.5)


def test_gpu_memory_is_shown_where_there_is_a_gpu():
    record = {"step": 1, "total_steps": 2, "ram_gb": 3.0, "gpu_memory_reserved_gb": 17.0}

    assert view_of("id", "name", "running", "", {1: record}).memory_gb == 17.0


def test_a_plain_line_tells_everything_without_control_codes():
    line = plain_line(view_of("id", "name", "running", "", STEPS))

    assert line == (
        "running       step 4/8  50%  loss 3  eval 2.5 (5 before)  "
        "1,234 tokens/s  memory 0.50 GB  ETA 1:01"
    )


def test_a_job_without_metrics_is_its_state():
    assert plain_line(view_of("id", "name", "created", "", {})) == "created"


def test_one_evaluation_is_not_compared_with_itself():
    view = view_of("id", "name", "running", "", {1: STEPS[1]})

    assert losses(view) == "loss 4  eval 5"
    assert speed(view) == ""


def test_control_codes_of_a_log_do_not_reach_the_terminal():
    assert printable("a\x1b[31mb\x07\rc\td\u202e") == "a [31mb  c\td "
