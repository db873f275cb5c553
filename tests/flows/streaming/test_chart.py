"""The picture of the curves: everything lies inside, and nothing lies over another."""

from __future__ import annotations

import itertools
import math
import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flows.streaming.axes import CHARACTER
from flows.streaming.chart import MAX_POINTS, WIDTH, Panel, chart, data_uri, thinned

SVG = "{http://www.w3.org/2000/svg}"
ANY_VALUE = st.one_of(
    st.floats(-5, 12),
    st.floats(allow_nan=True, allow_infinity=True),
    st.floats(-1e-12, 1e-12),
)
POINTS = st.lists(st.tuples(st.integers(0, 10**7), ANY_VALUE), max_size=60).map(sorted)


def elements(panels: list[Panel], tag: str) -> list[ElementTree.Element]:
    root = ElementTree.fromstring(chart(panels))  # noqa: S314 - our own picture
    return root.findall(f"{SVG}{tag}")


def corners(element: ElementTree.Element) -> list[tuple[float, float]]:
    """The points that an element covers, a text's by the width that we reckon with."""
    at = {name: float(value) for name, value in element.attrib.items() if name in XY}
    match element.tag.removeprefix(SVG):
        case "polyline" | "polygon":
            pairs = (pair.split(",") for pair in element.attrib["points"].split())
            return [(float(x), float(y)) for x, y in pairs]
        case "line":
            return [(at["x1"], at["y1"]), (at["x2"], at["y2"])]
        case "circle":
            return [(at["cx"] - at["r"], at["cy"] - at["r"]), (at["cx"] + 3, at["cy"] + 3)]
        case "text":
            width = CHARACTER * len(element.text or "")
            back = {"end": 1.0, "middle": 0.5}.get(element.attrib.get("text-anchor", ""), 0.0)
            left = at["x"] - back * width
            return [(left, at["y"] - 9), (left + width, at["y"] + 3)]
    return []


XY = {"x", "y", "x1", "y1", "x2", "y2", "cx", "cy", "r"}


@settings(max_examples=150, deadline=None)
@given(POINTS, POINTS, st.integers(1, 2))
@example([], [(100_000, 0.0), (100_000, 4.0)], 1)  # a long label at the left edge
def test_everything_lies_inside_the_picture(train, evaluation, count):
    root = ElementTree.fromstring(  # noqa: S314 - our own picture
        chart([Panel("reward margins, step 1,000 of 1,000", train, evaluation)] * count)
    )

    height = float(root.attrib["height"])
    for element in root.iter():
        for x, y in corners(element):
            assert math.isfinite(x), element.attrib
            assert -0.5 <= x <= WIDTH + 0.5, (element.tag, element.text, element.attrib)
            assert 0 <= y <= height, (element.tag, element.text, element.attrib)


@settings(max_examples=100, deadline=None)
@given(POINTS, POINTS)
def test_title_and_legend_do_not_lie_over_each_other(train, evaluation):
    texts = elements([Panel("reward margins, step 1,000 of 1,000", train, evaluation)], "text")
    first_line = sorted(
        (corners(text) for text in texts if text.attrib["y"] == "24"), key=lambda box: box[0][0]
    )

    for left, right in itertools.pairwise(first_line):
        assert left[1][0] <= right[0][0]


def test_both_curves_are_drawn_and_every_evaluation_is_marked():
    train, evaluation = [(1, 5.0), (2, 4.0)], [(0, 6.0), (2, 4.5)]

    panels = [Panel("a <title>", train, evaluation)]

    assert [len(line.attrib["points"].split()) for line in elements(panels, "polyline")] == [2, 2]
    assert len(elements(panels, "circle")) == 2
    assert elements(panels, "text")[0].text == "a <title>"


@pytest.mark.parametrize(
    "points",
    [[(3, 2.0)], [(3, 2.0), (4, math.nan)], [(3, 2.0), (4, math.inf), (5, -math.inf)]],
)
def test_a_single_finite_value_is_a_dot(points):
    [dot] = elements([Panel("loss", points, [])], "circle")

    assert "nan" not in str(dot.attrib)
    assert [text.text for text in elements([Panel("loss", points, [])], "text")][1] == "train 2"


def test_a_curve_of_nothing_says_so():
    assert "no values yet" in [text.text for text in elements([Panel("loss", [], [])], "text")]


def test_negative_values_are_below_the_line_of_zero():
    panels = [Panel("reward", [(1, -2.0), (2, 1.0)], [])]

    [zero] = [line for line in elements(panels, "line") if line.attrib["class"] == "axis"][:1]
    [(_, low), (_, high)] = corners(elements(panels, "polyline")[0])

    assert high < float(zero.attrib["y1"]) < low


def test_spikes_are_cut_off_marked_and_told_and_the_rest_keeps_its_height():
    points = [(step, 2 + math.sin(step)) for step in range(200)]
    points[50], points[120] = (50, 1e6), (120, 4e5)

    panels = [Panel("loss", points, [])]

    assert "▲ 2 values above 4 not to scale, the furthest 1,000,000" in [
        text.text for text in elements(panels, "text")
    ]
    assert len(elements(panels, "polygon")) == 2
    heights = [y for _, y in corners(elements(panels, "polyline")[0])]
    assert max(heights) - min(heights) > 100


def test_the_picture_has_colours_for_both_kinds_of_page_and_a_background():
    svg = chart([Panel("loss", [(1, 2.0)], [])])

    assert "@media (prefers-color-scheme:dark)" in svg
    assert elements([Panel("loss", [(1, 2.0)], [])], "rect")[0].attrib["class"] == "page"
    assert data_uri(svg).startswith("data:image/svg+xml;base64,")


def test_a_million_steps_make_a_small_picture():
    points = [(step, 5 / (1 + step / 1e5)) for step in range(0, 1_000_000, 10)]

    assert len(chart([Panel("loss", points, points)])) < 20_000


def test_thinning_keeps_the_ends():
    points = [(float(number), 0.0) for number in range(100_000)]

    kept = thinned(points)

    assert len(kept) == MAX_POINTS
    assert (kept[0], kept[-1]) == (points[0], points[-1])
