"""The picture and the tables that Prefect shows of a running job."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree

from flows.streaming.board import MetricsTail, curve, progress, table
from flows.streaming.chart import MAX_POINTS, data_uri, loss_curve, thinned


def steps(count: int) -> dict[int, dict[str, float | int]]:
    return {s: {"step": s, "total_steps": count, "train_loss": 5 / s} for s in range(1, count + 1)}


def test_the_curve_is_an_svg_with_both_losses():
    svg = loss_curve([(1, 5.0), (2, 4.0)], [(2, 4.5)], "a <title>")

    root = ElementTree.fromstring(svg)  # noqa: S314 - our own picture
    lines = root.findall("{http://www.w3.org/2000/svg}polyline")
    assert [len(line.attrib["points"].split()) for line in lines] == [2, 1]
    assert "a &lt;title&gt;" in svg


def test_a_curve_of_nothing_and_of_one_value_can_be_drawn():
    ElementTree.fromstring(loss_curve([], [], "empty"))  # noqa: S314
    ElementTree.fromstring(loss_curve([(3, 2.0)], [], "one"))  # noqa: S314
    assert data_uri("<svg/>").startswith("data:image/svg+xml;base64,")


def test_thinning_keeps_the_ends():
    points = [(float(number), 0.0) for number in range(100_000)]

    kept = thinned(points)

    assert len(kept) == MAX_POINTS
    assert (kept[0], kept[-1]) == (points[0], points[-1])


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


def test_the_markdown_shows_the_newest_value_of_each_metric():
    text = curve({1: {"step": 1, "eval_loss": 3.25}, 2: {"step": 2, "train_loss": 2.5}})

    assert "| eval_loss | 3.25 |" in text
    assert "| train_loss | 2.5 |" in text
    assert "| gpu_utilization_percent | – |" in text


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
