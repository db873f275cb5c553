"""The table of all faults, printed when the tests are over."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median
from typing import Any

import pytest

PROPERTY = "fault"
FIGURES = "figures"
HEAD = ("#", "fault", "survived", "end", "leaked", "lines lost", "unverified", "detect", "recover")


@dataclass
class Row:
    """All tests of one fault."""

    number: int
    name: str
    outcomes: list[str] = field(default_factory=list)
    ends: list[str] = field(default_factory=list)
    figures: list[dict[str, Any]] = field(default_factory=list)

    @property
    def skipped(self) -> bool:
        return bool(self.outcomes) and set(self.outcomes) == {"skipped"}

    @property
    def survived(self) -> bool:
        return bool(self.outcomes) and set(self.outcomes) <= {"passed", "skipped"}

    def total(self, name: str) -> int:
        return sum(int(figures[name]) for figures in self.figures)

    def seconds(self, name: str) -> list[float]:
        return [figures[name] for figures in self.figures if figures[name] is not None]

    def cells(self) -> tuple[str, ...]:
        return (
            str(self.number),
            self.name,
            "skipped" if self.skipped else "yes" if self.survived else "NO",
            ", ".join(dict.fromkeys(figures["end"] for figures in self.figures)) or "-",
            *(str(self.total(name)) for name in ("leaked", "lines", "unverified")),
            *(_worst(self.seconds(name)) for name in ("detect", "recover")),
        )


def rows_of(reports: list[pytest.TestReport]) -> list[Row]:
    """Return one row per fault, by number."""
    rows: dict[int, Row] = {}
    for report in reports:
        properties = dict(getattr(report, "user_properties", ()))  # a failed collection has none
        if PROPERTY not in properties:
            continue
        number, name = properties[PROPERTY]
        row = rows.setdefault(number, Row(number, name))
        if report.when == "call" or report.outcome != "passed":
            row.outcomes.append(report.outcome)
        if report.when == "call" and FIGURES in properties:
            row.figures.append(properties[FIGURES])
    return [rows[number] for number in sorted(rows)]


def written(rows: list[Row]) -> list[str]:
    """Return the lines of the table; the last one sums it up."""
    cells = [HEAD, *(row.cells() for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(HEAD))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    ]
    met = [row for row in rows if not row.skipped]
    leaked, lost, unverified = (
        sum(row.total(name) for row in met) for name in ("leaked", "lines", "unverified")
    )
    return [
        *lines,
        f"faults {len(met)} survived {sum(row.survived for row in met)} leaked {leaked} "
        f"lines lost {lost} unverified {unverified} "
        f"detect {_summed(met, 'detect')} recover {_summed(met, 'recover')}",
    ]


def _worst(seconds: list[float]) -> str:
    return f"{max(seconds):.1f} s" if seconds else "-"


def _summed(rows: list[Row], name: str) -> str:
    seconds = [value for row in rows for value in row.seconds(name)] or [0.0]
    return f"median {median(seconds):.1f} s max {max(seconds):.1f} s"
