"""When the jobs of a batch waited and ran, as an SVG picture for light and dark pages."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from xml.sax.saxutils import escape

from trainer.contract.job_directory import JobState
from trainer.contract.words import duration

WIDTH = 860  # pixels
ROW, BAR = 24, 12  # the height of a row, and of the bar in it
TOP, BOTTOM, RIGHT = 46, 16, 64  # margins; the right one holds the time that a job took
CHARACTER = 6.6  # pixels: the width of one at 11 pixels, at most on average
LONGEST_NAME = 30  # characters; what is cut ends in …
MAX_ROWS = 200  # a browser draws more, but nobody reads them
MAX_TICKS = 8
DISTANCES = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200)
"""Between ticks, in seconds; beyond these: days."""
DAY = 86400.0
STYLE = """<style>
.page{fill:#fff;stroke:#d4d4d8}.ink{fill:#3f3f46}.faint{fill:#71717a}.grid{stroke:#e4e4e7}
.waits{fill:#d4d4d8}.link{fill:none;stroke:#a1a1aa;stroke-width:1.2}.tip{fill:#a1a1aa}
.running{fill:#2563eb}.completed{fill:#15803d}.failed{fill:#dc2626}.stopped{fill:#a16207}
.paused{fill:#7c3aed}
@media (prefers-color-scheme:dark){.page{fill:#18181b;stroke:#3f3f46}.ink{fill:#e4e4e7}
.faint{fill:#a1a1aa}.grid{stroke:#303036}.waits{fill:#3f3f46}.link{stroke:#71717a}.tip{fill:#71717a}
.running{fill:#60a5fa}.completed{fill:#4ade80}.failed{fill:#f87171}.stopped{fill:#facc15}
.paused{fill:#c084fc}}
</style>"""
KINDS = {
    JobState.INITIALIZING: "running",
    JobState.RUNNING: "running",
    JobState.PAUSED: "paused",
    JobState.COMPLETED: "completed",
    JobState.FAILED: "failed",
    JobState.STOPPED: "stopped",
}
"""How the bar of a job looks; one that waits has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A job in the picture."""

    name: str
    state: JobState
    submitted: datetime
    began: datetime | None = None
    """When it first ran."""
    ended: datetime | None = None
    after: tuple[str, ...] = ()
    """The names of the jobs that it comes after."""
    word: str = ""
    """Its state as a person calls it, for one that never began."""

    def until(self, now: datetime) -> datetime:
        """Return where its bar, or its wait, ends."""
        is_open = self.state in {JobState.CREATED, JobState.INITIALIZING, JobState.RUNNING}
        return now if is_open else self.ended or now


@dataclass(frozen=True, slots=True)
class _Scale:
    left: float
    begin: datetime
    seconds: float

    def x(self, moment: datetime) -> float:
        share = (moment - self.begin).total_seconds() / self.seconds
        return round(self.left + max(0.0, min(1.0, share)) * (WIDTH - RIGHT - self.left), 1)


def gantt(lines: Sequence[Line], now: datetime) -> str:
    """Return the picture: a row for each job, grey where it waited, and lines to what came after it.

    Args:
        lines: the jobs, in the order in which they are drawn.
        now: where the bars of jobs end that are at work.
    """
    shown = lines[:MAX_ROWS]
    begin = min((line.submitted for line in shown), default=now)
    end = max((line.until(now) for line in shown), default=now)
    seconds = max(1.0, (end - begin).total_seconds())
    names = [_cut(line.name) for line in shown]
    left = 16 + CHARACTER * max(map(len, names), default=0)
    scale = _Scale(left, begin, seconds)
    height = TOP + ROW * len(shown) + BOTTOM + (ROW if len(lines) > len(shown) else 0)
    rows = {line.name: number for number, line in enumerate(shown)}
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" '
        f'height="{height}" role="img" aria-label="When each job waited and ran" '
        f'font-family="sans-serif" font-size="11">{STYLE}',
        f'<rect class="page" x=".5" y=".5" width="{WIDTH - 1}" height="{height - 1}" rx="6"/>',
        *_legend(shown),
        *_grid(scale, height),
        *(part for line in shown for part in _links(line, rows, shown, scale, now)),
        *(part for n, line in enumerate(shown) for part in _row(n, line, names[n], scale, now)),
    ]
    if len(lines) > len(shown):
        y = TOP + ROW * len(shown) + 15
        parts.append(
            f'<text class="faint" x="8" y="{y}">and {len(lines) - len(shown):,} more</text>'
        )
    return "".join([*parts, "</svg>"])


def _cut(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"


def _middle(number: int) -> float:
    return TOP + ROW * number + ROW / 2


def _row(number: int, line: Line, name: str, scale: _Scale, now: datetime) -> list[str]:
    y = _middle(number) - BAR / 2
    began = line.began or line.until(now)
    parts = [
        f'<text class="ink" x="8" y="{y + 10:g}">{escape(name)}</text>',
        _bar("waits", scale.x(line.submitted), scale.x(began), y + BAR / 4, BAR / 2),
    ]
    kind, end = KINDS.get(line.state), line.until(now)
    if line.began and kind:
        parts.append(
            _bar(kind, scale.x(line.began), max(scale.x(end), scale.x(line.began) + 2), y, BAR)
        )
    took = duration((end - began).total_seconds()) if line.began else ""
    word = escape(took or line.word or str(line.state))
    parts.append(f'<text class="faint" x="{scale.x(end) + 5:g}" y="{y + 10:g}">{word}</text>')
    return parts


def _bar(kind: str, begin: float, end: float, y: float, height: float) -> str:
    if end <= begin:
        return ""
    return (
        f'<rect class="{kind}" x="{begin:g}" y="{y:g}" width="{end - begin:.1f}" height="{height:g}" '
        'rx="2"/>'
    )


def _links(
    line: Line, rows: Mapping[str, int], shown: Sequence[Line], scale: _Scale, now: datetime
) -> list[str]:
    """Return the lines from the ends of those that a job comes after to its own beginning."""
    parts = []
    target = _middle(rows[line.name])
    x = scale.x(line.began or line.until(now))
    for name in line.after:
        if name not in rows:
            continue
        before = shown[rows[name]]
        start = min(scale.x(before.until(now)), x)
        source = _middle(rows[name])
        # Down from the end of the one, then to the beginning of the other.
        parts.append(
            f'<path class="link" d="M{start:g} {source:g}V{target:g}H{x:g}"/>'
            f'<polygon class="tip" points="{x - 5:g},{target - 3:g} {x - 5:g},{target + 3:g} '
            f'{x:g},{target:g}"/>'
        )
    return parts


def _grid(scale: _Scale, height: int) -> list[str]:
    distance = _distance(scale.seconds)
    parts = []
    for number in range(math.floor(scale.seconds / distance) + 1):
        seconds = number * distance
        x = scale.left + seconds / scale.seconds * (WIDTH - RIGHT - scale.left)
        parts.append(
            f'<line class="grid" x1="{x:.1f}" y1="{TOP - 4}" x2="{x:.1f}" y2="{height - BOTTOM}"/>'
            f'<text class="faint" x="{x:.1f}" y="{TOP - 9}" text-anchor="middle">{_label(seconds)}</text>'
        )
    return parts


def _distance(seconds: float) -> float:
    """Return a round distance between ticks."""
    for distance in DISTANCES:
        if seconds / distance <= MAX_TICKS:
            return float(distance)
    return DAY * math.ceil(seconds / DAY / MAX_TICKS)


def _label(seconds: float) -> str:
    if seconds >= DAY:
        return f"{seconds / DAY:g} d"
    return duration(seconds)


def _legend(shown: Sequence[Line]) -> list[str]:
    """Return what the colours mean: those that the picture has."""
    there = {KINDS[line.state] for line in shown if line.began and line.state in KINDS}
    x, parts = 8.0, []
    for kind in ("waits", *dict.fromkeys(KINDS.values())):
        if kind == "waits" or kind in there:
            text = "waiting" if kind == "waits" else kind
            parts.append(
                f'<rect class="{kind}" x="{x:g}" y="10" width="10" height="10" rx="2"/>'
                f'<text class="ink" x="{x + 15:g}" y="19">{text}</text>'
            )
            x += 15 + CHARACTER * len(text) + 18
    return parts
