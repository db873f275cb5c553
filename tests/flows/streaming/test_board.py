"""The picture and the tables that Prefect shows of a running job."""

from __future__ import annotations

import base64
import json
import re

from flows.streaming.board import current, curve, picture, progress, table
from flows.streaming.metrics_tail import MetricsTail


def steps(count: int) -> dict[int, dict[str, float | int]]:
    return {s: {"step": s, "total_steps": count, "train_loss": 5 / s} for s in range(1, count + 1)}


def test_progress_is_the_share_of_the_last_step():
    assert progress({3: {"step": 3, "total_steps": 12}}) == 25.0
    assert progress({0: {"step": 0, "total_steps": 0}}) == 0.0


def test_the_table_is_short_and_keeps_evaluations_and_the_last_step():
    many = steps(5_000)
    many[777]["eval_loss"] = 1.5

    rows = json.loads(table(many))

    assert len(rows) <= 121
    assert rows[-1]["step"] == 5_000
    assert [row["eval_loss"] for row in rows if row["eval_loss"]] == [1.5]


def test_no_number_of_the_table_has_more_than_four_digits():
    records = {
        1: {"step": 1, "train_loss": 0.123456789, "learning_rate": 4.25684e-08},
        123_456: {"step": 123_456, "train_loss": 1234.5678, "tokens_per_second": 98765.4},
    }

    first, last = json.loads(table(records))

    assert (first["train_loss"], first["learning_rate"]) == (0.1235, 4.257e-08)
    assert (last["train_loss"], last["tokens_per_second"]) == (1235.0, 98770.0)
    assert last["step"] == 123_456


def test_the_markdown_shows_what_is_known_in_words_and_four_digits():
    records = {
        1: {"step": 1, "total_steps": 430, "eval_loss": 3.25, "cpu_percent": 98.7654},
        2: {"step": 2, "train_loss": 2.567891, "eta_seconds": 761.0, "ram_gb": None},
    }

    text = curve(records)

    assert "| step | 2 of 430 |" in text
    assert "| evaluation loss | 3.25 |" in text
    assert "| training loss | 2.568 |" in text
    assert "| CPU | 98.77 % |" in text
    assert "| time left | 12:41 min |" in text
    assert "main memory" not in text
    assert "GPU" not in text


def drawn(markdown: str) -> str:
    """The SVG inside the image of a markdown text."""
    return base64.b64decode(re.findall(r"base64,([^)]+)", markdown)[0]).decode()


def test_the_picture_names_the_step_and_the_newest_losses():
    svg = drawn(picture({1: {"step": 1, "total_steps": 2, "train_loss": 2.3456, "eval_loss": 3.0}}))

    assert ">loss, step 1 of 2<" in svg
    assert ">train 2.346<" in svg
    assert ">eval 3<" in svg


def test_a_reward_is_drawn_above_the_loss_with_its_evaluations():
    record = {"step": 1, "train_loss": 0.01, "reward": -1.5, "eval_reward": -1.25, "kl": 0.2}

    svg = drawn(picture({1: record}))

    assert re.findall(r'font-size="13">([^<]+)<', svg) == ["reward, step 1", "loss"]
    assert ">train -1.5<" in svg
    assert ">eval -1.25<" in svg


def test_margins_are_drawn_below_the_loss_of_preferences():
    record = {"step": 1, "train_loss": 0.69, "rewards/margins": 0.02, "rewards/accuracies": 0.5}

    assert re.findall(r'font-size="13">([^<]+)<', drawn(picture({1: record}))) == [
        "loss, step 1",
        "reward margins",
    ]
    assert current({1: record})["rewards/accuracies"] == "0.5"
    assert json.loads(table({1: record}))[0]["rewards/margins"] == 0.02


def test_the_tail_waits_for_whole_lines_and_counts_what_it_cannot_read(tmp_path):
    path = tmp_path / "metrics.jsonl"
    tail = MetricsTail(path)

    assert not tail.read_new()
    path.write_text('{"step": 1}\nnot json\n{"step": 2, "train_l')
    assert tail.read_new()
    assert (list(tail.steps), tail.skipped) == ([1], 1)
    with path.open("a") as stream:
        stream.write('oss": 2.0}\n')
    assert tail.read_new()
    assert tail.steps[2]["train_loss"] == 2.0
    assert not tail.read_new()
