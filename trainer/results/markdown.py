"""Values as Markdown, whatever is in them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping


def code(text: str) -> str:
    """Return a text as Markdown code, whatever is in it; an empty text stays empty."""
    text = "".join(c if c.isprintable() else " " for c in text).strip()
    if not text:
        return ""
    # CommonMark: a code span ends at a fence of the same length, and one space on each side is
    # dropped. https://spec.commonmark.org/0.31.2/#code-spans
    fence = "``" if "`" in text else "`"
    pad = " " if text[0] == "`" or text[-1] == "`" else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def table(left: str, right: str, rows: Mapping[str, str] | Iterable[tuple[str, str]]) -> list[str]:
    """Return the lines of a Markdown table of two columns."""
    pairs = rows.items() if isinstance(rows, Mapping) else rows
    cells = [(left, right), ("---", "---"), *pairs]
    return [f"| {cell(name)} | {cell(value)} |" for name, value in cells]


def cell(text: str) -> str:
    """Return a text as it may stand in a cell."""
    # A line break or a bar would end the cell.
    return " ".join(text.split()).replace("|", "\\|")
