"""The loss curve as a small SVG picture, for Prefect's markdown artifacts."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 640, 300
LEFT, RIGHT, TOP, BOTTOM = 56, 16, 34, 36  # margins around the plot, in pixels
MAX_POINTS = 300  # per curve; more would be drawn over each other
TRAIN, EVAL, GRID, INK = "#2563eb", "#ea580c", "#d4d4d8", "#52525b"

Point = tuple[float, float]


def loss_curve(train: Sequence[Point], evaluation: Sequence[Point], title: str) -> str:
    """Return an SVG of training and evaluation loss over steps.

    Args:
        train: (step, loss) pairs, by step.
        evaluation: (step, loss) pairs, by step.
        title: shown above the plot.
    """
    train, evaluation = thinned(train), thinned(evaluation)
    points = [*train, *evaluation] or [(0.0, 0.0)]
    x_range = _step_range([x for x, _ in points])
    y_range = _loss_range([y for _, y in points])

    def place(point: Point) -> Point:
        x = LEFT + (point[0] - x_range[0]) / (x_range[1] - x_range[0]) * (WIDTH - LEFT - RIGHT)
        share = (point[1] - y_range[0]) / (y_range[1] - y_range[0])
        return round(x, 1), round(HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM), 1)

    return "".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
            f'width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif" font-size="11">',
            f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
            f'<text x="{LEFT}" y="20" fill="{INK}" font-size="13">{escape(title)}</text>',
            *_grid(x_range, y_range, place),
            _line([place(p) for p in train], TRAIN),
            _line([place(p) for p in evaluation], EVAL),
            *(_dot(place(p)) for p in evaluation),
            _legend("train", TRAIN, WIDTH - 130),
            _legend("eval", EVAL, WIDTH - 70),
            "</svg>",
        ]
    )


def data_uri(svg: str) -> str:
    """Return the picture as a data URI, which Prefect's UI shows where it shows no file."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()


def thinned(points: Sequence[Point], limit: int = MAX_POINTS) -> list[Point]:
    """Return at most `limit` points, evenly taken, the last one always."""
    if len(points) <= limit:
        return list(points)
    stride = (len(points) - 1) / (limit - 1)
    return [points[round(number * stride)] for number in range(limit)]


def _step_range(steps: list[float]) -> Point:
    low, high = min(steps), max(steps)
    return low, high if high > low else low + 1


def _loss_range(losses: list[float]) -> Point:
    low, high = min(losses), max(losses)
    margin = (high - low) * 0.05 or 0.5
    return max(0.0, low - margin), high + margin


def _grid(x_range: Point, y_range: Point, place: Callable[[Point], Point]) -> list[str]:
    parts = []
    for number in range(5):
        x = x_range[0] + (x_range[1] - x_range[0]) * number / 4
        y = y_range[0] + (y_range[1] - y_range[0]) * number / 4
        left, at_y = place((x_range[0], y))
        right, _ = place((x_range[1], y))
        at_x, _ = place((x, y_range[0]))
        parts += [
            f'<line x1="{left}" y1="{at_y}" x2="{right}" y2="{at_y}" stroke="{GRID}"/>',
            f'<text x="{left - 6}" y="{at_y + 4}" text-anchor="end" fill="{INK}">{y:.3g}</text>',
            f'<text x="{at_x}" y="{HEIGHT - 14}" text-anchor="middle" fill="{INK}">{x:.0f}</text>',
        ]
    return parts


def _line(points: list[Point], colour: str) -> str:
    path = " ".join(f"{x},{y}" for x, y in points)
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.8"/>'


def _dot(point: Point) -> str:
    return f'<circle cx="{point[0]}" cy="{point[1]}" r="2.5" fill="{EVAL}"/>'


def _legend(text: str, colour: str, x: int) -> str:
    return (
        f'<line x1="{x}" y1="16" x2="{x + 18}" y2="16" stroke="{colour}" stroke-width="2"/>'
        f'<text x="{x + 23}" y="20" fill="{INK}">{text}</text>'
    )
