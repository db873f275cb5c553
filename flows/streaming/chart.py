"""Curves over steps as a small SVG picture, for Prefect's markdown artifacts.

It has colours for a light and for a dark page, and a background of its own: browsers choose by the
page that shows it, and where one does not, the picture is still readable.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from flows.streaming.axes import CHARACTER, Axis, of_steps, of_values, visible
from trainer.contract.words import number

WIDTH, HEIGHT = 640, 260  # of a panel, in pixels
RIGHT, TOP, BOTTOM = 20, 40, 30  # margins around the plot; the left one follows the labels
NOTE = 16  # the height of a line under the plot
MAX_POINTS = 300  # per curve; more would be drawn over each other
MAX_MARKS = 30  # per curve, of points beyond the edge
MAX_DOTS = 60  # more evaluations than this are drawn as a line without dots
TALLEST = 1e100
"""Values are cut off here: the distance between two of them must not overflow to infinity."""
STYLE = """<style>
.page{fill:#fff;stroke:#d4d4d8}.ink{fill:#3f3f46}.faint{fill:#71717a}.grid{stroke:#e4e4e7}
.axis{stroke:#a1a1aa}.train{stroke:#2563eb}.eval{stroke:#ea580c}.line{fill:none;stroke-width:1.7;
stroke-linejoin:round}.eval.dot{fill:#ea580c;stroke:#fff}.train.dot{fill:#2563eb;stroke:#fff}
@media (prefers-color-scheme:dark){.page{fill:#18181b;stroke:#3f3f46}.ink{fill:#e4e4e7}
.faint{fill:#a1a1aa}.grid{stroke:#303036}.axis{stroke:#71717a}.train{stroke:#60a5fa}
.eval{stroke:#fb923c}.eval.dot{fill:#fb923c;stroke:#18181b}.train.dot{fill:#60a5fa;stroke:#18181b}}
</style>"""

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Panel:
    """What is drawn in one plot: pairs of step and value, by step."""

    title: str
    train: Sequence[Point]
    evaluation: Sequence[Point]

    def drawable(self) -> Panel:
        """Return the panel with finite values only."""
        return Panel(self.title, _finite(self.train), _finite(self.evaluation))

    def axes(self) -> tuple[Axis, Axis]:
        """Return the axis of the steps, and that of the values."""
        points = [*self.train, *self.evaluation]
        return of_steps([x for x, _ in points]), of_values(*visible([y for _, y in points]))


def chart(panels: Sequence[Panel]) -> str:
    """Return an SVG of one plot or several, one below the other."""
    drawn, top = [], 0
    finite = [panel.drawable() for panel in panels]
    axes = [panel.axes() for panel in finite]
    # One margin for all panels, from the widest label, so that their steps line up.
    left = 14 + CHARACTER * max(len(label) for _, y_axis in axes for _, label in y_axis.ticks)
    for panel, (x_axis, y_axis) in zip(finite, axes, strict=True):
        content, height = _plot(panel, x_axis, y_axis, left, top)
        drawn.append(content)
        top += height
    return "".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top}" '
            f'width="{WIDTH}" height="{top}" font-family="sans-serif" font-size="11">{STYLE}',
            f'<rect class="page" x=".5" y=".5" width="{WIDTH - 1}" height="{top - 1}" rx="6"/>',
            *drawn,
            "</svg>",
        ]
    )


def data_uri(svg: str) -> str:
    """Return the picture as a data URI: Prefect's UI shows those, but no files of the server."""
    # Base64, because a markdown link ends at the first parenthesis or space of plain SVG.
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()


def thinned(points: Sequence[Point], limit: int = MAX_POINTS) -> list[Point]:
    """Return at most `limit` points, evenly taken, the last one always."""
    if len(points) <= limit:
        return list(points)
    stride = (len(points) - 1) / (limit - 1)
    return [points[round(number * stride)] for number in range(limit)]


def _plot(panel: Panel, x_axis: Axis, y_axis: Axis, left: float, top: int) -> tuple[str, int]:
    """Return the elements of a panel and its height."""
    points = [*panel.train, *panel.evaluation]
    floor = top + HEIGHT - BOTTOM

    def place(point: Point) -> Point:
        x = left + x_axis.share(point[0]) * (WIDTH - RIGHT - left)
        y = floor - y_axis.share(point[1]) * (floor - top - TOP)
        return round(x, 1), round(y, 1)

    notes = _beyond(points, y_axis)
    parts = [
        f'<text class="ink" x="{left:g}" y="{top + 24}" font-size="13">{escape(panel.title)}</text>',
        *_legend(panel, top + 24),
        "" if points else _nothing(top + HEIGHT // 2),
        *_grid(x_axis, y_axis, place),
        *_curve(panel.train, "train", place, y_axis),
        *_curve(panel.evaluation, "eval", place, y_axis),
        *(_dot(place(p), "eval") for p in panel.evaluation if len(panel.evaluation) <= MAX_DOTS),
        *(_dot(place(p), "train") for p in panel.train if len(panel.train) == 1),
        *(
            f'<text class="faint" x="{left:g}" y="{top + HEIGHT + NOTE * n + 4}">{note}</text>'
            for n, note in enumerate(notes)
        ),
    ]
    return "".join(parts), HEIGHT + (NOTE * len(notes))


def _grid(x_axis: Axis, y_axis: Axis, place: Callable[[Point], Point]) -> list[str]:
    parts = []
    for y, label in y_axis.ticks:
        left, at_y = place((x_axis.low, y))
        right, _ = place((x_axis.high, y))
        kind = "axis" if y == 0 else "grid"
        parts.append(
            f'<line class="{kind}" x1="{left}" y1="{at_y}" x2="{right}" y2="{at_y}"/>'
            f'<text class="faint" x="{left - 6:g}" y="{at_y + 4:g}" text-anchor="end">{label}</text>'
        )
    for x, label in x_axis.ticks:
        at_x, floor = place((x, y_axis.low))
        half = CHARACTER * len(label) / 2
        # Neither the first label nor the last may stick out of the picture.
        middle = max(half + 2, min(at_x, WIDTH - half - 2))
        parts.append(
            f'<line class="axis" x1="{at_x}" y1="{floor}" x2="{at_x}" y2="{floor + 4:g}"/>'
            f'<text class="faint" x="{middle:g}" y="{floor + 17:g}" text-anchor="middle">{label}</text>'
        )
    return parts


def _curve(
    points: Sequence[Point], name: str, place: Callable[[Point], Point], axis: Axis
) -> list[str]:
    """Return a line, and marks at the edge where it leaves the plot."""
    if not points:
        return []
    path = " ".join(f"{x},{y}" for x, y in map(place, thinned(points)))
    beyond = [point for point in points if not axis.low <= point[1] <= axis.high]
    return [
        f'<polyline class="line {name}" points="{path}"/>',
        *(_mark(place(point), name, point[1] > axis.high) for point in thinned(beyond, MAX_MARKS)),
    ]


def _beyond(points: Sequence[Point], axis: Axis) -> list[str]:
    """Return what to say of the values beyond the edges."""
    above = [y for _, y in points if y > axis.high]
    below = [y for _, y in points if y < axis.low]
    return [
        f"{mark} {len(values):,} {'value' if len(values) == 1 else 'values'} {where} "
        f"{number(edge)} not to scale, the furthest {number(furthest(values))}"
        for mark, where, edge, values, furthest in (
            ("▲", "above", axis.high, above, max),
            ("▼", "below", axis.low, below, min),
        )
        if values
    ]


def _nothing(y: int) -> str:
    middle = f'x="{WIDTH // 2}" y="{y}" text-anchor="middle"'
    return f'<text class="faint" {middle}>no values yet</text>'


def _dot(point: Point, name: str) -> str:
    return f'<circle class="{name} dot" cx="{point[0]}" cy="{point[1]}" r="3"/>'


def _mark(point: Point, name: str, up: bool) -> str:  # noqa: FBT001 - a direction
    x, y = point
    tip = -5 if up else 5
    path = f"{x - 3.5:g},{y:g} {x + 3.5:g},{y:g} {x:g},{y + tip:g}"
    return f'<polygon class="{name} dot" points="{path}"/>'


def _legend(panel: Panel, y: int) -> list[str]:
    """Return each curve's name and newest value, at the right edge."""
    parts, right = [], float(WIDTH - RIGHT)
    for name, points in (("eval", panel.evaluation), ("train", panel.train)):
        if points:
            text = f"{name} {number(points[-1][1])}"
            right -= CHARACTER * len(text)
            parts.append(
                f'<line class="{name}" x1="{right - 20:g}" y1="{y - 4}" x2="{right - 4:g}" '
                f'y2="{y - 4}" stroke-width="2"/>'
                f'<text class="ink" x="{right:g}" y="{y}">{text}</text>'
            )
            right -= 36
    return parts


def _finite(points: Sequence[Point]) -> list[Point]:
    return [(x, max(-TALLEST, min(TALLEST, y))) for x, y in points if math.isfinite(y)]
